"""The real clients on bad days: a model that loads for long, an engine that dies in mid-stream,
a switch of models within a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import DIALECTS, MakeDesk, timing, worker
from tests.e2e.programs import CLIENTS, TEN, Client, proof, said, worked
from tests.e2e.tap import tapped
from tests.e2e.terminal import Terminal
from tests.fakes.tools import TEXT

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

CLAUDE, CODEX, *_ = CLIENTS
OWN = {"claude": ".claude/settings.json", "codex": ".codex/config.toml"}
# The events that a client takes for a sign of life, in its own dialect.
SIGNS = {"claude": b"event: ping", "codex": b"event: response.in_progress"}


def start_of(client: Client, speaks: str, kind: str) -> Any:
    """One of each dialect in every run, and short."""
    load, quiet, signs = ("65", 15.0, 3) if kind == "long" else ("4", 0.3, 4)
    always = kind == "short" and speaks == ("chat" if client is CLAUDE else "native")
    return pytest.param(
        *(load, quiet, signs, client, speaks),
        id=f"{kind}-{client}-{speaks}",
        marks=() if always else pytest.mark.slow,
    )


@pytest.mark.parametrize(
    ("load", "quiet", "signs", "client", "speaks"),
    [
        start_of(client, speaks, kind)
        for client in (CLAUDE, CODEX)
        for speaks in DIALECTS
        for kind in ("long", "short")
    ],
)
def test_a_long_start(
    load: str, quiet: float, signs: int, client: Client, speaks: str, stand_in: MakeDesk
) -> None:
    """It is told in its own words that there is life, asks once, and goes on."""
    desk = stand_in(speaks, "--load-s", load, tables=timing({"stream_keepalive": quiet}))
    written = desk.ctl("env", client.name, "mine", "--write")
    assert written.returncode == 0, said(written)
    with tapped(desk.house.port) as tap:
        file = desk.home / OWN[client.name]
        file.write_text(file.read_text().replace(f":{desk.house.port}", f":{tap.port}"))
        worked(desk, desk.run(client.name, *client.words, "Write the file", seconds=200))
        heard = tap.heard.split(TEXT.encode())[0]
    assert heard.count(SIGNS[client.name]) >= signs, heard[:3000]
    assert desk.house.kinds("mine").count("start") == 1
    main = [one for one in desk.record() if "tools" in one["body"]]
    assert len(main) == 2, "one request a turn: nothing was given up and asked again"


@pytest.mark.parametrize(
    ("client", "speaks"),
    [
        pytest.param(
            client,
            speaks,
            id=f"{client}-{speaks}",
            marks=() if (client, speaks) == (CLAUDE, "chat") else pytest.mark.slow,
        )
        for client in CLIENTS
        for speaks in DIALECTS
    ],
)
def test_killed_in_mid_stream(
    client: Client, speaks: str, stand_in: MakeDesk, short_dir: Path
) -> None:
    """The engine is killed while it speaks: the client asks again by itself, and all ends well."""
    flags = ["--crash-at", "token:4", "--signal", "KILL", "--token-s", "0.1"]
    flags += ["--times", "1", "--state", str(short_dir / "starts")]
    if client.name == "opencode":
        flags += ["--skip", "3"]  # the daemon's probe, the title, and the turn beside it
    desk = stand_in(speaks, *flags, tables=timing({"backoff": 0.05}))
    done = desk.ctl("launch", client.name, "mine", "--", *client.words, "Write the file")
    worked(desk, done)
    kinds = desk.house.kinds("mine")
    assert (kinds.count("start"), kinds.count("exited")) == (2, 1), kinds
    asked = [body for body in desk.asked("/v1/chat/completions") if body.get("tools")]
    assert [body["stream"] for body in asked] == [True] * 3, "no fall to an answer at one go"


@pytest.mark.slow
def test_another_model_in_mid_session(stand_in: MakeDesk, short_dir: Path) -> None:
    """``/model`` after a tool round: the next round is with a model of another engine, which reads
    what came before in its own dialect."""
    reply = "eleven twelve thirteen"
    desk = stand_in("native", tables=worker("other", short_dir, "chat", "--reply", reply))
    terminal = Terminal(desk, "launch", "claude", "mine")
    try:
        terminal.trust()
        terminal.say("Write the file")
        terminal.told(TEN)
        terminal.say("/model other")
        terminal.settle()
        terminal.say("Write another file")
        terminal.told(reply)
        terminal.say("/exit")
        assert terminal.close() == 0
    finally:
        terminal.end()
    for model in ("mine", "other"):
        assert proof(desk.folder, model).read_text() == TEXT + "\n"
    (first, *_) = [body for body in desk.asked("/v1/chat/completions", "other") if "tools" in body]
    assert first["model"] == "other"
    before = [turn for turn in first["messages"] if turn["role"] in ("assistant", "tool")]
    assert [turn["role"] for turn in before] == ["assistant", "tool", "assistant"]
    assert str(proof(desk.folder, "mine")) in before[0]["tool_calls"][0]["function"]["arguments"]
    assert TEN in str(before[2]["content"])
    assert desk.house.backends().keys() == {"mine", "other"}
