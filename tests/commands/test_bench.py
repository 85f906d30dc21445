"""``ctl bench``: the port is a stand-in engine, which speaks as the daemon's port does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from control_api.commands.local.complete import candidates
from daemon.core.problems import Code, Problem, ProblemError
from tests.commands.conftest import Ctl, answering
from tests.control_api.fake import (
    FakeControl,
    FakeDaemon,
    backend_view,
    bench_view,
    measured_view,
    model_view,
)
from tests.fakes import start

SHORT = ("--prompt", "100", "--generate", "20", "--runs", "2")


@pytest.fixture
def engine(daemon: FakeDaemon, fake: FakeControl) -> Iterator[str]:
    """The port; a load starts the backend where there is none."""
    fake.catalog["gemma"] = model_view("gemma", aliases=["g"], state="ready", routes=["chat"])
    fake.running = [backend_view("gemma", context=2000)]
    load = fake.load

    async def loading(name: str, **more: Any) -> Any:
        async for step in load(name, **more):
            yield step
        if not fake.running:
            fake.running = [
                backend_view("gemma", context=2000, generation=5, started_at=90.0, ready_at=92.5)
            ]

    fake.load = loading  # type: ignore[method-assign]
    with start.running("engine", "--tokens", "5000") as made:
        fake.url = made.url
        yield made.url


@pytest.mark.usefixtures("engine")
def test_a_cold_run_is_measured_and_kept(ctl: Ctl, fake: FakeControl) -> None:
    result = ctl("bench", "g", *SHORT)
    assert result.code == 0, result
    assert [call[0] for call in fake.calls] == ["unload", "load", "keep_benchmark"]
    (kept,) = fake.benches
    made = kept.measured
    assert (made.prompt, made.generate, made.runs) == (100, 20, 2)
    assert (made.tokens_in, made.tokens_out, made.cached) == (100, 20, 0)
    assert (made.cold, made.timed_by, made.disturbed) == (True, "clock", "")
    figures = {figure.name: figure for figure in made.figures}
    assert list(figures) == ["load", "first_token", "prefill", "generation"]
    assert figures["load"].median == 2.5
    assert {figure.count for name, figure in figures.items() if name != "load"} == {2}
    lines = result.out.splitlines()
    assert lines[0] == "gemma  llama-server b9000, Q4_K_M, context 32768"
    assert lines[1].split() == ["MEDIAN", "SPREAD"]
    assert "memory: 3.0 GiB measured, 4.0 GiB reserved for it" in lines
    assert "2 runs, 100 tokens read, none known before, 20 written; by the clock of ctl" in lines
    assert "measure  1 of 2" in result.err
    assert "measure  2 of 2" in result.err


@pytest.mark.usefixtures("engine")
def test_the_time_before_is_beside_it(ctl: Ctl, fake: FakeControl) -> None:
    fake.benches = [bench_view(version="b8000", measured=measured_view(prompt=100, generate=20))]
    result = ctl("bench", "gemma", *SHORT, "--warm")
    assert result.code == 0, result
    assert [call[0] for call in fake.calls] == ["load", "keep_benchmark"], "it stays loaded"
    assert result.out.splitlines()[1].split() == ["MEDIAN", "SPREAD", "BEFORE", "CHANGE"]
    assert "before: " in result.out
    assert "version b8000 -> b9000" in result.out
    told = ctl("bench", "gemma", *SHORT, "--warm", "--json").json
    assert told["before"]["id"] == 2
    assert set(told["changes"]) == {"first_token", "prefill", "generation"}
    other = ctl("bench", "gemma", "--prompt", "120", "--generate", "20", "--warm", "--json").json
    assert other["before"] is None, "another length is another thing"


@pytest.mark.usefixtures("engine")
def test_who_uses_it_is_asked_for(
    ctl: Ctl, fake: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.running = [backend_view("gemma", context=2000, leases=2, queue=1)]
    refused = ctl("bench", "gemma", *SHORT)
    assert refused.code == 1
    assert "gemma is in use (2 running, 1 waiting)" in refused.err
    assert "--warm measures it as it is" in refused.err
    assert fake.calls == []

    answering(monkeypatch, "n\n")
    assert ctl("bench", "gemma", *SHORT).code == 1
    assert fake.calls == []
    answering(monkeypatch, "y\n")
    assert ctl("bench", "gemma", *SHORT).code == 0
    fake.running = [backend_view("gemma", context=2000, leases=2, queue=1)]
    assert ctl("bench", "gemma", *SHORT, "--yes").code == 0
    assert ("unload", "gemma", False) in fake.calls, "running requests end first"


@pytest.mark.usefixtures("engine")
def test_others_that_were_served_meanwhile_are_named(ctl: Ctl, fake: FakeControl) -> None:
    fake.running.append(backend_view("qwen3-coder", leases=1))
    result = ctl("bench", "gemma", *SHORT, "--warm")
    assert fake.benches[0].measured.disturbed == "qwen3-coder"
    assert "! Meanwhile others were served by qwen3-coder: measure it again." in result.out


def test_what_is_not_as_it_was_asked_for_is_said(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.benches = [bench_view(measured=measured_view(tokens_out=7, tokens_in=510, cached=9))]
    said = ctl("bench", "gemma", "--compare").out
    assert "! Its answers ended by themselves before 128 tokens." in said
    assert "! 512 tokens were asked for, it read 510." in said
    assert "510 tokens read; 9 of them were known already, 7 written" in said


@pytest.mark.usefixtures("engine")
def test_what_cannot_be_measured(ctl: Ctl, fake: FakeControl) -> None:
    long = ctl("bench", "gemma", "--prompt", "1990")
    assert long.code == 1
    assert "more than the context of 2000" in long.err
    short = ctl("bench", "gemma", "--prompt", "3", "--warm")
    assert "too short" in short.err
    fake.url = "http://127.0.0.1:1"
    assert "The port cannot be reached" in ctl("bench", "gemma", "--warm").err
    fake.steps = (ProblemError(Problem(Code.MODEL_TOO_LARGE, "Too large.")),)
    assert "Too large." in ctl("bench", "gemma", *SHORT, "--warm").err
    fake.catalog["gemma"] = replace(fake.catalog["gemma"], kind="audio", routes=["audio"])
    assert "cannot be measured: it serves audio" in ctl("bench", "gemma").err
    assert fake.benches == [], "nothing is kept of it"


def test_an_interrupt_keeps_nothing(
    ctl: Ctl, fake: FakeControl, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def hear(ask: Any, *rest: Any) -> Any:
        asked.append(ask)
        raise KeyboardInterrupt

    monkeypatch.setattr("daemon.proving.driver.hear", hear)
    result = ctl("bench", "gemma", *SHORT, "--warm")
    assert result.code == 130
    assert "Interrupted: nothing is kept. gemma stays loaded." in result.err
    assert (len(asked), fake.benches) == (1, [])


def test_what_was_measured(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    assert ctl("bench", "ls").out == "No model has been measured yet: ctl bench MODEL\n"
    assert ctl("bench", "ls", "g").out == "g has not been measured yet: ctl bench MODEL\n"
    assert "gemma has not been measured." in ctl("bench", "gemma", "--compare").err
    embed = bench_view(id=3, model="qwen3-coder", measured=measured_view(generate=0, figures=[]))
    fake.benches = [embed, bench_view(id=2, version="b9001"), bench_view()]
    head, *rows = ctl("bench", "ls").out.splitlines()
    assert head.split()[:3] == ["MODEL", "WHEN", "ENGINE"]
    assert [row.split()[0] for row in rows] == ["qwen3-coder", "gemma", "gemma"]
    assert "512+128" in rows[1]
    assert "40.0 tokens/s" in rows[1]
    assert len(ctl("bench", "ls", "gemma", "--json").json["benchmarks"]) == 2
    told = ctl("bench", "gemma", "--compare")
    assert "version b9000 -> b9001" in told.out
    assert "the same" in told.out
    assert fake.calls == []


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("gemma", "--runs", "0"),
        ("gemma", "--prompt", "many"),
        ("gemma", "--generate", "-1"),
        ("gemma", "--runs", "1000"),
    ],
)
def test_bad_words(ctl: Ctl, words: tuple[str, ...]) -> None:
    assert ctl("bench", *words).code == 2


def test_one_model_at_a_time(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert "One model is measured at a time." in ctl("bench", "gemma", "qwen3-coder").err


def test_completion(daemon: FakeDaemon) -> None:
    assert candidates(["bench"])[:3] == ["ls", "g", "gemma"]
    assert "gemma" in candidates(["bench", "ls"])
