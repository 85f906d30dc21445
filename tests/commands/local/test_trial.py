"""The daemon on the side: it ends with who started it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from control_api.commands.local import trial

CODE = """
import os, re, sys
from pathlib import Path
from control_api.commands.local import trial
from tests.ports import free_port
written, port = trial._config, free_port()  # one that no other test is given meanwhile
line = f"port = {{port}}"
trial._config = lambda *words: re.sub("^port = [0-9]+", line, written(*words), 0, re.M)
with trial._side("llama-server", Path("/no/engine"), Path("/no/model.gguf"), None) as client:
    status = client.get("/status")
    print(status["pid"], Path(status["config"]).parent, flush=True)
    {end}
"""


def until(what: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := what()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


@pytest.mark.timeout(240)  # a daemon that starts and ends, with waits of its own
@pytest.mark.parametrize("end", ["sys.stdin.read()", "pass"], ids=["killed", "done"])
def test_nothing_of_it_is_left(home: Path, end: str) -> None:
    (home / "config.toml").touch()
    ours = subprocess.Popen(
        [sys.executable, "-c", CODE.format(end=end)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert ours.stdout is not None
        pid, folder = ours.stdout.readline().split()
        if end == "pass":
            assert ours.wait(60) == 0
    finally:
        ours.kill()
        ours.communicate(timeout=10)
    assert until(lambda: not psutil.pid_exists(int(pid)))
    assert until(lambda: not Path(folder).exists())


@pytest.mark.timeout(240)
def test_a_daemon_that_does_not_start_is_no_fault_of_the_engine(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_config", lambda *_: "[server]\nport = 'x'\n")
    proof = trial.prove("vllm", Path("/no"), Path("/no"), None, lambda *_: None)
    assert not proof.made
    assert not proof.broken
    assert "did not start" in proof.text


def test_it_takes_half_of_the_processors() -> None:
    assert trial.threads("llama-server", 8) == ("-t", "4")
    assert trial.threads("xllamacpp", 1) == ("-t", "1")
    assert trial.threads("mlx-lm", 8) == ()


def test_a_step_that_the_model_is_too_weak_for_is_not_counted() -> None:
    from daemon.proving.values import Fault, Finding, Outcome

    broken: dict[str, str] = {}
    for name, outcome, fault in (
        ("weak", Outcome.BROKEN, Fault.MODEL), ("fine", Outcome.BUT, Fault.NONE),
        ("bad", Outcome.BROKEN, Fault.PLUMBING), ("lost", Outcome.UNKNOWN, Fault.NONE),
    ):  # fmt: skip
        trial._judge(name, Finding(name, outcome, f"{name} it is", fault), broken)
    assert broken == {"bad": "bad it is", "lost": "lost it is"}
