from __future__ import annotations

from typing import get_args

import pytest

from control_api.schemas import StepName
from daemon.proving.steps import STEPS
from daemon.proving.values import Fault, Finding, Outcome
from daemon.proving.verdict import ORDER, verdict

ALL = {name: Finding(name, Outcome.WORKS, "") for name in STEPS}
WEAK = Finding("tools-chat", Outcome.BUT, "too weak", Fault.MODEL)


def test_the_api_knows_the_same_steps() -> None:
    assert get_args(StepName) == tuple(STEPS)


@pytest.mark.parametrize(
    ("changes", "word", "text"),
    [
        ({}, "works", ""),
        ({"image": Finding("image", Outcome.SKIPPED, "")}, "works", ""),
        ({"tools-chat": WEAK}, "works, but", "tools-chat: too weak"),
        (
            {name: Finding(name, Outcome.BUT, "too weak") for name in ("tools-chat", "leak")},
            "works, but",
            "tools-chat, leak: too weak",
        ),
        (
            {"tools-chat": WEAK, "stop": Finding("stop", Outcome.BROKEN, "goes on")},
            "broken",
            "stop: goes on",
        ),
        (
            {"tools-chat": WEAK, "stop": Finding("stop", Outcome.UNKNOWN, "")},
            "partly tested",
            "tools-chat: too weak; 7 of 8 steps were taken",
        ),
    ],
)
def test_the_verdict(changes: dict[str, Finding], word: str, text: str) -> None:
    assert verdict({**ALL, **changes}) == (word, text)


def test_one_step_alone() -> None:
    assert verdict({"stream": ALL["stream"]}) == ("partly tested", "1 of 8 steps were taken")
    broken = Finding("stream", Outcome.BROKEN, "no end")
    assert verdict({"stream": broken}) == ("broken", "stream: no end")


def test_every_step_has_its_place() -> None:
    assert tuple(STEPS) == ORDER
