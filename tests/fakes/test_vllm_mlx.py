"""The stand-in for vllm-mlx."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.start import Fake, argv, running

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
ENDLESS = {"FAKE_ENGINE_FLAGS": "--tokens -1 --token-s 0.01"}


def serve(folder: Path, *flags: str) -> list[str]:
    """Its command line."""
    return ["serve", str(folder), "--served-model-name", "tiny", *flags]


def stream(fake: Fake) -> http.client.HTTPConnection:
    """A stream that is under way."""
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=20)
    body = json.dumps({**CHAT, "stream": True})
    connection.request("POST", "/v1/chat/completions", body)
    connection.getresponse().read(10)
    return connection


def test_it_serves_what_vllm_mlx_serves(tiny_hf: Path) -> None:
    with running("vllm_mlx", *serve(tiny_hf)) as fake:
        status, health = fake.request("/health")
        assert (status, health["status"], health["model_loaded"]) == (200, "healthy", True)
        assert fake.request("/v1/models")[1]["data"][0]["id"] == "tiny"
        assert fake.request("/v1/chat/completions", CHAT)[0] == 200
        assert fake.request("/v1/messages", {**CHAT, "max_tokens": 4})[0] == 200
        assert fake.request("/v1/responses", {"model": "tiny", "input": "hi"})[0] == 200
        assert fake.request("/metrics")[0] == 404
        assert fake.request("/props") == (404, {"detail": "Not Found"})


def test_the_models_name_is_required_and_exact(tiny_hf: Path) -> None:
    with running("vllm_mlx", *serve(tiny_hf)) as fake:
        status, body = fake.request("/v1/chat/completions", {"messages": []})
        assert (status, body["detail"][0]["loc"]) == (422, ["body", "model"])
        status, body = fake.request("/v1/chat/completions", {**CHAT, "model": "default"})
        assert status == 404
        assert body["detail"] == "The model `default` does not exist. Available model: `tiny`"


def test_unhealthy_comes_with_200(tiny_hf: Path) -> None:
    env = {"FAKE_ENGINE_FLAGS": "--unhealthy"}
    with running("vllm_mlx", *serve(tiny_hf), env=env) as fake:
        status, body = fake.request("/health")
        assert (status, body["status"]) == (200, "unhealthy")
        assert fake.request("/v1/chat/completions", CHAT)[0] == 503


def test_the_key_is_a_bearer_and_health_is_free(tiny_hf: Path) -> None:
    with running("vllm_mlx", *serve(tiny_hf, "--api-key", "secret")) as fake:
        assert fake.request("/health")[0] == 200
        assert fake.request("/v1/models") == (401, {"detail": "API key required"})
        wrong = {"Authorization": "Bearer other"}
        assert fake.request("/v1/models", headers=wrong) == (401, {"detail": "Invalid API key"})
        right = {"Authorization": "Bearer secret"}
        assert fake.request("/v1/models", headers=right)[0] == 200


def test_the_flags_in_use_are_taken(tiny_hf: Path) -> None:
    flags = """--kv-cache-quantization --cache-memory-percent 0.35 --prefill-step-size 4096
        --stream-interval 4 --timeout 600 --enable-auto-tool-choice --tool-call-parser auto
        --max-tokens 32768 --enable-metrics --offline"""
    with running("vllm_mlx", *serve(tiny_hf, *flags.split())) as fake:
        assert fake.request("/metrics")[0] == 200


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--ctx-size", "9"], 2, "unrecognized arguments"),
        (["--tool-call-parser", "nonsense"], 2, "invalid choice"),
        (["--enable-auto-tool-choice"], 1, "requires --tool-call-parser"),
        (["--max-tokens", "0"], 1, "--max-tokens must be at least 1"),
    ],
)
def test_wrong_command_lines_end_it(tiny_hf: Path, flags: list[str], code: int, text: str) -> None:
    result = subprocess.run(
        [*argv("vllm_mlx"), *serve(tiny_hf, *flags)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert result.returncode == code
    assert text in result.stderr


def test_a_model_that_is_not_there_fails_the_load(tmp_path: Path) -> None:
    with running("vllm_mlx", *serve(tmp_path / "nothing"), ready=False) as fake:
        assert fake.wait_exit() == 1


def test_the_port_opens_after_the_load_unless_lazy(tiny_hf: Path) -> None:
    env = {"FAKE_ENGINE_FLAGS": "--load-log --load-s 0.15"}
    with running("vllm_mlx", *serve(tiny_hf), env=env) as fake:
        assert fake.log().index("load_tensors") < fake.log().index("listening")
    with running("vllm_mlx", *serve(tiny_hf, "--lazy-load-model"), env=env) as fake:
        assert fake.log().index("listening") < fake.log().index("load_tensors")


def test_term_ends_an_idle_one_by_the_signal(tiny_hf: Path) -> None:
    with running("vllm_mlx", *serve(tiny_hf)) as fake:
        fake.terminate()
        assert fake.wait_exit() == -signal.SIGTERM


def test_term_waits_for_a_live_stream_however_often(tiny_hf: Path) -> None:
    with running("vllm_mlx", *serve(tiny_hf), env=ENDLESS) as fake:
        connection = stream(fake)
        for _ in range(2):
            fake.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                fake.wait_exit(0.2)
        connection.close()
        assert fake.wait_exit() == -signal.SIGTERM


def test_an_interrupt_after_term_insists(tiny_hf: Path) -> None:
    with running("vllm_mlx", *serve(tiny_hf), env=ENDLESS) as fake:
        connection = stream(fake)
        fake.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            fake.wait_exit(0.1)
        fake.process.send_signal(signal.SIGINT)
        assert fake.wait_exit() == -signal.SIGINT
        connection.close()
