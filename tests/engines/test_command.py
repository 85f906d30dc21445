"""Servers of the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines.command import Command, Template
from tests.engines.plans import ENVIRON, installed, plan, running


def template(*argv: str, **changes: Any) -> Template:
    return Template("mine", argv or ("serve", "--port", "{port}"), **changes)


def test_a_template_is_filled() -> None:
    asked = template(
        "serve", "{path}", "--listen={host}:{port}", "--name", "{name}/{model}", "{ctx}", "{slots}",
        "{mmproj}", "{draft}", "{template}", "--keys", "{key_file}", '{"a": {"b": 1}}', "{}",
        env={"PORT": "{port}"},
    )  # fmt: skip
    filled = plan(
        running(1000, 3), mmproj=Path("/mm"), draft=Path("/d"), template=Path("/t"),
        args=("--more", "{port}"),
    )  # fmt: skip
    launch = Command(asked, ENVIRON).launch(filled, installed("command.mine", "/bin/serve"))
    assert launch.argv == (
        "/bin/serve", "/models/qwen.gguf", "--listen=127.0.0.1:40001", "--name", "qwen/qwen",
        "1000", "3", "/mm", "/d", "/t", "--keys", "/run/key", '{"a": {"b": 1}}', "{}",
        "--more", "{port}",
    )  # fmt: skip
    assert launch.env["PORT"] == "40001"
    assert "HF_TOKEN" not in launch.env
    assert launch.files == {"/run/key": "canary\n"}
    assert launch.headers == {"Authorization": "Bearer canary"}


def test_one_that_takes_no_key_gets_none() -> None:
    launch = Command(template(), ENVIRON).launch(plan(), installed("x", "/bin/serve"))
    assert (launch.files, launch.headers) == ({}, {})
    assert launch.upstream_model == "qwen"


def test_a_file_that_the_model_lacks() -> None:
    engine = Command(template("serve", "{port}", "{mmproj}"), ENVIRON)
    with pytest.raises(ProblemError, match="has no mmproj") as caught:
        engine.launch(plan(), installed("x", "/bin/serve"))
    assert caught.value.problem.code is Code.MODEL_UNAVAILABLE


@pytest.mark.parametrize(
    ("argv", "changes", "said", "hint"),
    [((), {}, "argv is empty", "program"),
     (("serve", "{port}", "{prot}"), {}, "{prot}", "{port}"),
     (("serve", "{port}"), {"env": {"A": "{nope}"}}, "{nope}", "{port}"),
     (("serve",), {}, "neither {port} nor {socket}", "reach"),
     (("serve", "{port}"), {"env": {"AT": "{socket}"}}, "both {port} and {socket}", "one of them"),
     (("serve", "{port}"), {"ready": "health"}, "'health'", "/health"),
     (("serve", "{port}"), {"dialects": ("soap",)}, "'soap'", "messages")],
)  # fmt: skip
def test_mistakes_are_told(
    argv: tuple[str, ...], changes: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(ProblemError) as caught:
        Template("mine", argv, **changes)
    problem = caught.value.problem
    assert problem.code is Code.CONFIG_INVALID
    assert said in problem.message
    assert "[engines.command.mine]" in problem.message
    assert hint in problem.hint


def test_a_key_file_in_the_environment_is_written_too() -> None:
    asked = template("serve", "{port}", env={"KEYS": "{key_file}"})
    launch = Command(asked, ENVIRON).launch(plan(), installed("command.mine", "/bin/serve"))
    assert (launch.env["KEYS"], launch.files) == ("/run/key", {"/run/key": "canary\n"})
    assert launch.headers == {"Authorization": "Bearer canary"}


def test_readiness_is_a_path_and_then_a_real_request() -> None:
    probe = Command(template(ready="/up")).probe(plan())
    assert (probe.health, probe.method, probe.path) == ("/up", "POST", "/v1/chat/completions")
    assert json.loads(probe.body)["max_tokens"] == 1
    messages = Command(template(ready="/up", dialects=("messages",))).probe(plan())
    assert messages.path == "/v1/messages"


def test_what_nothing_is_known_of_is_asked_its_path_again() -> None:
    probe = Command(template(ready="/up")).probe(plan(kind="audio"))
    assert (probe.health, probe.method, probe.path, probe.body) == ("/up", "GET", "/up", b"")


def test_readiness_by_request() -> None:
    probe = Command(template(ready="request")).probe(plan(kind="embedding"))
    assert (probe.health, probe.path) == (None, "/v1/embeddings")
    assert json.loads(probe.body)["model"] == "qwen"


def test_routes_follow_dialects_and_kind() -> None:
    engine = Command(template(dialects=("chat", "messages")))
    assert engine.routes("chat") == {"chat", "completions", "messages", "count_tokens", "upstream"}
    assert engine.routes("embedding") == {"embeddings", "upstream"}
    assert engine.routes("rerank") == {"rerank", "upstream"}
    assert engine.routes("audio") == {"audio", "upstream"}
    assert engine.routes("other") == {"upstream"}


def test_its_program_is_found(tmp_path: Path) -> None:
    program = tmp_path / "serve"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    environ = {"PATH": str(tmp_path)}
    assert Command(template()).find({}, environ).program == (str(program),)
    absolute = Command(template(str(program), "{port}"))
    assert absolute.find({}, {}).program == (str(program),)
    assert Command(template("{path}", "{port}")).find({}, {}).program == ("{path}",)


@pytest.mark.parametrize("program", ["nowhere-to-be-found", "/no/such/program", "/bin"])
def test_one_that_is_not_there(program: str) -> None:
    with pytest.raises(ProblemError, match=program) as caught:
        Command(template(program, "{port}")).find({}, {"PATH": "/bin"})
    assert caught.value.problem.code is Code.ENGINE_MISSING


def test_a_server_that_listens_on_a_socket() -> None:
    engine = Command(template("serve", "--uds={socket}"), ENVIRON)
    found = installed("serve")
    socket = Path("/run/a b/q-1.engine.sock")
    start = plan(socket=socket, port=0)
    assert engine.launch(start, found).argv == ("/bin/serve", f"--uds={socket}")
    assert str(start.target) == f"unix:{socket}"
    with pytest.raises(ProblemError, match="too long") as caught:
        engine.launch(plan(), found)
    assert "MODELPORT_RUNTIME_DIR" in caught.value.problem.hint
    assert Command(template("{path}", "{socket}")).find({}, {}).sockets
    assert not Command(template("{path}", "{port}")).find({}, {}).sockets
