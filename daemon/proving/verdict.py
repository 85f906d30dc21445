"""What all steps come to together; apart from their code, which a daemon needs only for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

ORDER: Final[tuple[str, ...]] = (
    "stream",
    "tools-chat",
    "tools-messages",
    "tools-responses",
    "image",
    "context",
    "leak",
    "stop",
)
"""The names of all steps, the quick ones first."""

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
    left = [name for name in ORDER if name not in found or found[name].outcome == "unknown"]
    known = [one for one in found.values() if one.outcome == "but"]
    if left:
        told = f"{_told(known)}; " if known else ""
        return PARTLY, f"{told}{len(ORDER) - len(left)} of {len(ORDER)} steps were taken"
    if known:
        return BUT, _told(known)
    return WORKS, ""


def _told(found: list[Found]) -> str:
    """Each thing once, with the steps that found it."""
    steps: dict[str, list[str]] = {}
    for one in found:
        steps.setdefault(one.text, []).append(one.step)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in steps.items())
