"""All steps in their order, and what they come to together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

from daemon.proving import context, image, talking, tools
from daemon.proving.chat import CHAT
from daemon.proving.messages import MESSAGES
from daemon.proving.responses import RESPONSES
from daemon.proving.values import Subject, Talk

STEPS: Final[Mapping[str, Callable[[Subject], Talk]]] = {
    talking.STREAM: talking.stream,
    **{
        tools.PREFIX + dialect.name: partial(tools.tool_round, dialect)
        for dialect in (CHAT, MESSAGES, RESPONSES)
    },
    image.IMAGE: image.image,
    context.CONTEXT: context.context,
    talking.LEAK: talking.leak,
    talking.STOP: talking.stop,
}
"""By name, the quick ones first."""

WORKS: Final = "works"
BUT: Final = "works, but"
BROKEN: Final = "broken"
PARTLY: Final = "partly tested"


class Found(Protocol):
    """What a verdict wants of a finding; ``values.Finding`` and ``views.FindingView`` have it."""

    @property
    def step(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def text(self) -> str: ...


def verdict(found: Mapping[str, Found]) -> tuple[str, str]:
    """The word for all findings together, and a sentence."""
    broken = [one for one in found.values() if one.outcome == "broken"]
    if broken:
        return BROKEN, _told(broken)
    left = [name for name in STEPS if name not in found or found[name].outcome == "unknown"]
    known = [one for one in found.values() if one.outcome == "but"]
    if left:
        told = f"{_told(known)}; " if known else ""
        return PARTLY, f"{told}{len(STEPS) - len(left)} of {len(STEPS)} steps were taken"
    if known:
        return BUT, _told(known)
    return WORKS, ""


def _told(found: list[Found]) -> str:
    """Each thing once, with the steps that found it."""
    steps: dict[str, list[str]] = {}
    for one in found:
        steps.setdefault(one.text, []).append(one.step)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in steps.items())
