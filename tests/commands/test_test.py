"""``ctl test``: the port is a stand-in engine, which speaks as the daemon's port does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from daemon.core.problems import Code, Problem, ProblemError
from tests.commands.conftest import Ctl
from tests.control_api.fake import (
    FakeControl,
    FakeDaemon,
    backend_view,
    fit_view,
    model_view,
    verdict_view,
)
from tests.fakes import start

CALLS = '{"thing": "salt", "warehouse": "north"}'
ROUTES = ["chat", "messages", "responses"]


@pytest.fixture
def engine(daemon: FakeDaemon, fake: FakeControl, request: pytest.FixtureRequest) -> Iterator[str]:
    """The port; flags by ``@pytest.mark.parametrize(..., indirect=True)``."""
    flags = getattr(request, "param", [])
    good = ["--calls", CALLS, "--refuse-long", "-c", "2000"]
    fake.catalog["gemma"] = model_view("gemma", aliases=["g"], state="ready", routes=ROUTES)
    fake.running = [backend_view("gemma", context=2000)]
    with start.running("engine", *good, *flags) as made:
        fake.url = made.url
        yield made.url


@pytest.mark.usefixtures("engine")
def test_a_model_that_works(ctl: Ctl, fake: FakeControl) -> None:
    result = ctl("test", "g")
    assert result.code == 0, result
    lines = result.out.splitlines()
    steps = [line.split()[1] for line in lines if line.startswith("  works")]
    assert steps == [
        "stream", "tools-chat", "tools-messages", "tools-responses", "context", "leak", "stop"
    ]  # fmt: skip
    assert any(line.startswith("  left out    image") for line in lines)
    assert lines[-1] == "gemma: works (llama-server b9000)"
    loads, (verb, name, kept) = fake.calls
    assert loads == ("load", "gemma", None)
    assert (verb, name, len(kept)) == ("judge", "gemma", 8)
    assert "works" in ctl("test", "--last", "gemma").out


@pytest.mark.parametrize("engine", [["--writes-calls"]], indirect=True)
@pytest.mark.usefixtures("engine")
def test_a_model_whose_calls_are_text(ctl: Ctl) -> None:
    result = ctl("test", "gemma", "--only", "tools-messages")
    assert result.code == 1
    assert result.out.startswith("  broken      tools-messages   the tool call arrives as text")
    assert "next: another chat template may help: `ctl set gemma template=PATH`" in result.out
    assert "gemma: broken: tools-messages: the tool call" in result.out
    told = ctl("test", "gemma", "--only", "stream", "--only", "stop", "--json").json
    assert [one["step"] for one in told["ran"]] == ["stream", "stop"]
    assert told["verdict"] == "partly tested"


@pytest.mark.usefixtures("engine")
def test_json(ctl: Ctl) -> None:
    told = ctl("test", "gemma", "--json").json
    assert (told["model"], told["verdict"], len(told["findings"])) == ("gemma", "works", 8)
    assert told["ran"][0]["outcome"] == "works"
    last = ctl("test", "--last", "gemma", "--json").json
    assert last["verdicts"][0]["findings"] == told["findings"]


@pytest.mark.usefixtures("engine")
def test_all_that_fit(ctl: Ctl, fake: FakeControl) -> None:
    fake.catalog = {
        "embed": model_view("embed", kind="embedding", routes=["embeddings"]),
        "far": model_view("far", pulled=False),
        "dead": model_view("dead", problem="It died."),
        "gemma": fake.catalog["gemma"],
    }
    result = ctl("test", "--all", "--only", "stream")
    assert result.code == 0, result
    assert result.out.splitlines()[0] == "gemma", "what runs is first"
    assert "embed: left out: it does not chat (embedding)" in result.out
    assert "far: left out: it is not on this disk: `ctl pull far`" in result.out
    assert "dead: left out: It died." in result.out
    assert ("unload", "gemma", False) not in fake.calls, "it was loaded before"
    fake.catalog["gemma"] = model_view("gemma", routes=ROUTES)
    told = ctl("test", "--all", "--only", "stream", "--json").json
    assert [one["model"] for one in told["tests"]] == ["gemma"]
    assert {one["model"] for one in told["left_out"]} == {"embed", "far", "dead"}
    assert ("unload", "gemma", False) in fake.calls
    fake.fits = fit_view(verdict="refused", text="It needs more.")
    result = ctl("test", "--all")
    assert "gemma: left out: It needs more." in result.out


@pytest.mark.usefixtures("engine")
def test_one_that_cannot_be_loaded(ctl: Ctl, fake: FakeControl) -> None:
    fake.steps = (ProblemError(Problem(Code.MODEL_TOO_LARGE, "Too large.")),)
    result = ctl("test", "gemma")
    assert (result.code, result.err.splitlines()[-1]) == (1, "ctl: Too large.")
    assert "left out: Too large." in ctl("test", "--all").out
    assert all(call[0] != "judge" for call in fake.calls)


def test_a_port_where_nobody_is(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.url = "http://127.0.0.1:1"
    result = ctl("test", "gemma", "--only", "stream")
    assert result.code == 1
    assert "not tried" in result.out
    assert "gemma was not tested" in result.err
    assert all(call[0] != "judge" for call in fake.calls), "nothing is kept of it"


def test_only_models_that_chat(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.catalog["gemma"] = model_view("gemma", kind="embedding", routes=["embeddings"])
    result = ctl("test", "gemma")
    assert result.code == 1
    assert "gemma does not chat (it serves embeddings)" in result.err
    assert fake.calls == []


def test_what_was_found_last(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    assert ctl("test", "--last", "gemma").out == "gemma has not been tested.\n"
    assert ctl("test", "--last", "--all").out == "No model has been tested yet.\n"
    old = verdict_view(current=False)
    fake.catalog["gemma"] = model_view("gemma", tested=old)
    told = ctl("test", "--last", "gemma").out
    assert "gemma: works (llama-server b9000)" in told
    assert "not as it is served today" in told
    assert ctl("test", "--last", "--all").out == told
    assert fake.calls == []


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("gemma", "--all"),
        ("gemma", "--only", "nonsense"),
        ("gemma", "--timeout", "0"),
        ("gemma", "--timeout", "nan"),
        ("gemma", "--timeout", "soon"),
    ],
)
def test_bad_words(ctl: Ctl, words: tuple[str, ...]) -> None:
    assert ctl("test", *words).code == 2


def test_completion(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert "tools-chat" in ctl("__complete", "zsh", "test", "gemma", "--only", "").out.split()
    assert "gemma" in ctl("__complete", "zsh", "test", "").out.split()
    assert "--only" in ctl("__complete", "zsh", "test", "--").out.split()


def test_an_interrupted_test_keeps_what_it_has(
    ctl: Ctl, engine: str, fake: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    from control_api.commands import test as command

    real = command._show

    def interrupt(finding: object, out: object) -> None:
        real(finding, out)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_show", interrupt)
    assert ctl("test", "gemma").code == 130
    assert fake.calls[-1] == ("judge", "gemma", ["stream"])
