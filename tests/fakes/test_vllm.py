"""The stand-in for vLLM."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.start import argv, running

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def test_it_serves_what_vllm_serves(tiny_hf: Path) -> None:
    flags = ["serve", str(tiny_hf), "--served-model-name", "tiny", "--max-model-len", "2048"]
    with running("vllm", *flags, "--host", "127.0.0.1") as fake:
        assert fake.request("/health") == (200, "")
        (model,) = fake.request("/v1/models")[1]["data"]
        assert (model["id"], model["max_model_len"], model["root"]) == ("tiny", 2048, str(tiny_hf))
        for body in ({**CHAT, "model": "tiny"}, CHAT):
            assert fake.request("/v1/chat/completions", body)[0] == 200
        assert fake.request("/v1/messages", {**CHAT, "max_tokens": 4})[0] == 200
        assert fake.request("/v1/responses", {"input": "hi"})[0] == 200
        assert "vllm:num_requests_running" in fake.request("/metrics")[1]
        assert fake.request("/v1/embeddings", {"input": "x"}) == (404, {"detail": "Not Found"})


def test_another_models_name_is_a_404(tiny_hf: Path) -> None:
    with running("vllm", "serve", str(tiny_hf), "--host", "127.0.0.1") as fake:
        status, body = fake.request("/v1/chat/completions", {**CHAT, "model": "other"})
        assert status == 404
        assert body["error"]["message"] == "The model `other` does not exist."
        assert body["error"]["type"] == "NotFoundError"


def test_the_key_guards_v1_alone(tiny_hf: Path) -> None:
    flags = ["serve", str(tiny_hf), "--host", "127.0.0.1", "--api-key", "secret"]
    with running("vllm", *flags) as fake:
        assert fake.request("/health")[0] == 200
        assert fake.request("/v1/models") == (401, {"error": "Unauthorized"})
        assert fake.request("/v1/models", headers={"Authorization": "Bearer secret"})[0] == 200


def test_sleep_needs_the_flag_and_the_development_mode(tiny_hf: Path) -> None:
    flags = ["serve", str(tiny_hf), "--host", "127.0.0.1", "--enable-sleep-mode"]
    with running("vllm", *flags) as fake:
        assert fake.request("/sleep?level=1", {})[0] == 404
    with running("vllm", *flags, env={"VLLM_SERVER_DEV_MODE": "1"}) as fake:
        assert fake.request("/sleep?level=1", {})[0] == 200
        assert fake.request("/is_sleeping")[1] == {"is_sleeping": True}
        assert fake.request("/wake_up", {})[0] == 200
        assert fake.request("/is_sleeping")[1] == {"is_sleeping": False}


def test_tools_need_their_flags(tiny_hf: Path) -> None:
    serve = ["serve", str(tiny_hf), "--host", "127.0.0.1"]
    body = {**CHAT, "tools": [{"type": "function", "function": {"name": "ping"}}]}
    with running("vllm", *serve) as fake:
        assert fake.request("/v1/chat/completions", body)[0] == 400
    flags = [*serve, "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    with running("vllm", *flags) as fake:
        assert fake.request("/v1/chat/completions", body)[0] == 200


def test_a_pooling_model_embeds_and_does_not_chat(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    with running("vllm", "serve", str(tmp_path), "--host", "127.0.0.1") as fake:
        assert fake.request("/v1/embeddings", {"input": "x"})[0] == 200
        assert fake.request("/v1/chat/completions", CHAT)[0] == 404


def start(*flags: str) -> tuple[int, str]:
    """Run it to its end."""
    result = subprocess.run(
        [*argv("vllm"), *flags], capture_output=True, text=True, timeout=20, check=False
    )
    return result.returncode, result.stderr


def test_wrong_command_lines_end_it(tiny_hf: Path) -> None:
    code, text = start("serve", str(tiny_hf), "--ctx-size", "9")
    assert code == 2
    assert "unrecognized arguments: --ctx-size" in text
    code, text = start("serve", str(tiny_hf), "--max_model_len", "999999")
    assert code == 1
    assert "greater than the derived max_model_len" in text
    assert start("serve", "no/such-model")[0] == 1
    assert start("serve", str(tiny_hf), "--enable-auto-tool-choice")[0] == 1


def test_the_port_opens_after_the_load_and_term_ends_it(tiny_hf: Path) -> None:
    env = {"FAKE_ENGINE_FLAGS": "--load-s 0.2"}
    with running("vllm", "serve", str(tiny_hf), "--host", "127.0.0.1", env=env) as fake:
        log = fake.log()
        assert log.index("listening") < log.index("model loaded")
        assert fake.request("/health")[0] == 200
        fake.terminate()
        assert fake.wait_exit() == 0


def test_faults_from_the_environment(tiny_hf: Path) -> None:
    text = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    env = {"FAKE_ENGINE_FLAGS": f"--crash-at load --stderr '{text}'"}
    with running("vllm", "serve", str(tiny_hf), env=env, ready=False) as fake:
        assert fake.wait_exit() == 1
        assert text in fake.log()


@pytest.mark.parametrize("flag", ["--version", "-v"])
def test_it_tells_a_version(flag: str) -> None:
    result = subprocess.run([*argv("vllm"), flag], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "0.0.0+fake"
