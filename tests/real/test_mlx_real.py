"""A real mlx_lm.server: on Linux MLX computes on the CPU, the server is the same."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.core.messages import ExitClass
from daemon.engines.base import Engine, Installed, Running
from daemon.engines.mlx_lm import NO_ORIGIN, MlxLm
from tests.models import DEFAULT_REPLY, make_hf
from tests.real.starting import START_SECONDS, Started, events, make_plan, started

pytestmark = [pytest.mark.real, pytest.mark.mlx, pytest.mark.timeout(300)]

ASK = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 64}
Found = tuple[Engine, Installed]


@pytest.fixture(scope="module")
def mlx(mlx_python: Path) -> Found:
    engine = MlxLm()
    return engine, engine.find({"path": str(mlx_python)}, os.environ)


@pytest.fixture(scope="module")
def serving(
    mlx: Found, tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("mlx")
    with started(*mlx, make_plan(folder, tiny_hf), folder) as server:
        assert server.until_ready().status == 200
        yield server


def test_the_version_is_that_of_its_environment(mlx: Found) -> None:
    assert mlx[1].version.startswith("0.")


def test_a_chat(serving: Started) -> None:
    asked = {**ASK, "model": serving.launch.upstream_model}
    chat = serving.ask("POST", "/v1/chat/completions", asked)
    assert chat.status == 200, chat.body
    assert chat.json["choices"][0]["message"]["content"] == DEFAULT_REPLY
    assert chat.json["choices"][0]["finish_reason"] == "stop"
    text = serving.ask("POST", "/v1/completions", {**asked, "prompt": "a", "max_tokens": 3})
    assert text.json["choices"][0]["text"] == "one two three"


def test_a_stream(serving: Started) -> None:
    asked = {**ASK, "model": serving.launch.upstream_model, "stream": True}
    with contextlib.closing(serving.connect()) as connection:
        chunks = events(serving.send(connection, "POST", "/v1/chat/completions", asked))
    assert chunks[-1] == "[DONE]"
    said = [json.loads(chunk)["choices"] for chunk in chunks[:-1]]
    text = "".join(choices[0]["delta"].get("content") or "" for choices in said if choices)
    assert text == DEFAULT_REPLY


def test_why_the_relay_must_drop_queries_and_rewrite_the_model(serving: Started) -> None:
    asked = {**ASK, "model": serving.launch.upstream_model}
    assert serving.launch.keep_query is False
    assert serving.ask("POST", "/v1/chat/completions?beta=true", asked).status == 404
    # and it stays offline: the name of another model is not fetched
    other = serving.ask("POST", "/v1/chat/completions", {**ASK, "model": "nobody/nothing"})
    assert other.status == 404
    assert serving.ask("POST", "/v1/chat/completions", asked).status == 200


def test_web_pages_may_not_read_its_answers(serving: Started) -> None:
    assert NO_ORIGIN in serving.launch.argv
    with contextlib.closing(serving.connect()) as connection:
        response = serving.send(
            connection, "GET", "/health", headers={"Origin": "https://evil.example"}
        )
        assert response.getheader("Access-Control-Allow-Origin") is None


def test_every_setting_that_a_way_to_run_has(mlx: Found, tiny_hf: Path, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    running = Running("all", 1024, 2, prompt_cache=16 << 20)
    plan = make_plan(tmp_path, tiny_hf, running=running, template=template, args=("--temp", "0.6"))
    with started(*mlx, plan, tmp_path) as server:
        assert server.until_ready().status == 200, server.log()
        chat = server.ask(
            "POST", "/v1/chat/completions", {**ASK, "model": server.launch.upstream_model}
        )
        assert chat.json["usage"]["prompt_tokens"] == 2  # our template: no markup around
        # SIGTERM ends it at once, by the signal
        assert server.stop() == -15
        assert server.verdict(ready=True, asked=True).exit_class is ExitClass.CLEAN


def test_a_flag_that_it_does_not_know(mlx: Found, tiny_hf: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, tiny_hf, args=("--no-such-flag",))
    with started(*mlx, plan, tmp_path) as server:
        verdict = server.verdict(ready=False)
        assert server.process.returncode == 2
        assert verdict.exit_class is ExitClass.PERMANENT
        assert "--no-such-flag" in verdict.detail


@pytest.mark.parametrize("damage", ["missing", "architecture"])
def test_a_load_that_fails_leaves_it_alive_and_useless(
    mlx: Found, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "model"
    if damage == "architecture":
        make_hf(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "xlama"}))
    plan = make_plan(tmp_path, folder)
    with started(*mlx, plan, tmp_path) as server:
        deadline = time.monotonic() + START_SECONDS
        while "generation thread died" not in server.log():
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.01)
        lines = [server.log()]
        with contextlib.suppress(OSError):  # its port may not be open yet
            health = server.ask("GET", "/health")
            assert health.status == 503
            probe = server.engine.probe(plan)
            answer = server.ask(probe.method, probe.path, probe.body)
            assert answer.status == 404
            lines.append(answer.body.decode())
        assert server.process.poll() is None
        said = "\n".join(lines).splitlines()
        verdict = server.engine.classify(None, said, ready=False, asked=False)
        assert verdict.exit_class is ExitClass.PERMANENT, said
        assert verdict.advice
