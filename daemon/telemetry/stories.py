"""The story of the night: incidents in plain words, told once where the same happened again. Pure.

Numbers come from the incident; what to do next names the command or the setting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from daemon.core.messages import ExitClass
from daemon.core.units import format_amounts, format_bytes
from daemon.engines.signatures import METAL_RETRY, SMALLER, ended
from daemon.views import HeldView, IncidentView, StoryView

APART: Final = 6 * 3600.0  # seconds without it: the same thing again is another story
SMALLEST_CTX: Final = 4096  # tokens; no smaller context is advised
SHORT: Final = 0.05  # of a pool's budget left free by the machine: other programs have the rest
SIGKILLED: Final = (-9, 137)

_METAL_ENV: Final = " ".join(f"{name}={value}" for name, value in METAL_RETRY.items())
_DIGITS: Final = re.compile(r"0x[0-9a-f]+|[0-9]+", re.IGNORECASE)

WHAT: Final[Mapping[str, str]] = {
    ExitClass.OUT_OF_MEMORY: "ran out of memory",
    ExitClass.PERMANENT: "cannot be started as it is configured",
    ExitClass.PORT: "found its port taken",
    ExitClass.METAL_INIT: "could not start Metal",
    ExitClass.CRASH: "crashed",
    ExitClass.HANG: "stopped answering",
    ExitClass.CLEAN: "ended by itself",
}


def stories(incidents: Sequence[IncidentView], states: Mapping[str, str]) -> list[StoryView]:
    """The stories of ``incidents`` (any order), newest first. ``states``: of the models now."""
    open_: dict[tuple[str, ...], list[IncidentView]] = {}
    told: list[list[IncidentView]] = []
    for one in sorted(incidents, key=lambda one: (one.at, one.id)):
        key = (one.model, one.exit_class, str(one.serving), _DIGITS.sub("#", one.detail))
        group = open_.get(key)
        if group is None or one.at - group[-1].at > APART:
            group = open_[key] = []
            told.append(group)
        group.append(one)
    told.sort(key=lambda group: (group[-1].at, group[-1].id), reverse=True)
    return [_story(group, states.get(group[-1].model, "")) for group in told]


def _story(group: Sequence[IncidentView], state: str) -> StoryView:
    last = group[-1]
    kind = _KINDS.get(last.exit_class, _KINDS[ExitClass.CRASH])
    return StoryView(
        model=last.model,
        state=state,
        count=len(group),
        first_at=group[0].at,
        last_at=last.at,
        what=WHAT.get(last.exit_class, "ended"),
        how=how(last),
        meaning=kind.meaning(last),
        done=done(last),
        followed=followed(last),
        steps=[*kind.steps(last), *_always(last, state)],
        last=last,
    )


# ---------------------------------------------------------------- what was


def how(one: IncidentView) -> str:
    """``killed by SIGABRT after 4 m of serving, 2 requests running``."""
    if one.exit_class == ExitClass.HANG or (one.status is None and one.serving):
        start = "it did not answer"
    elif one.status is None:
        start = "it did not run" if one.age is None else "it was ended before it was ready"
    else:
        start = ended(one.status)
    phase = "of serving" if one.serving else "of loading"
    if one.age is not None:
        start += f" after {span(one.age)} {phase}"
    if one.unattended:
        start += ", while modelport was not running"
    if one.leases:
        start += f", with {one.leases} request{'s' if one.leases > 1 else ''} running"
    return start


def span(seconds: float) -> str:
    """Seconds in words: ``0.4 s``, ``12 s``, ``4 min``, ``3 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def done(one: IncidentView) -> str:
    """What was done about it."""
    other = f", with {one.next_variant} in place of {one.variant}" if one.next_variant else ""
    wait = span(one.done_seconds or 0.0)
    match one.done:
        case "backoff" if one.exit_class == ExitClass.PORT:
            return "started again at once, on another port"
        case "backoff" if one.exit_class == ExitClass.METAL_INIT:
            return f"started again at once with {_METAL_ENV}"
        case "backoff":
            return f"allowed to start again after {wait}{other}"
        case "half_open" if one.exit_class == ExitClass.OUT_OF_MEMORY:
            return f"given up: there is nothing smaller; one try after {wait}, when asked for"
        case "half_open":
            return f"given up after too many crashes; one try after {wait}, when asked for"
        case "gave_up":
            return "given up until something changes: the same start would fail again"
        case _:
            return ""


def followed(one: IncidentView) -> str:
    """What came of it."""
    after = span(one.followed_seconds or 0.0)
    match one.followed:
        case "ready":
            return f"ready again {after} later"
        case "died":
            return f"died again {after} later"
        case "taken_back":
            old = f"{one.engine} {one.version}".strip()
            return f"{old} was taken back {after} later: the version before is used again"
        case "reset":
            return f"reset by hand {after} later"
        case _:
            return "not started again since"


# ---------------------------------------------------------------- what it means, what to do


def _memory_meaning(one: IncidentView) -> str:
    parts = ["The engine was refused memory that it needed, or was killed for taking it."]
    if one.status in SIGKILLED:
        parts = [_killed(one)]
    elif one.near_budget and not one.lines:
        parts = ["Nothing that it said explains the end; it held about all that there was."]
    for pool in one.memory:
        if pool.own_measured and pool.own_measured > pool.own:
            took, own = format_bytes(pool.own_measured), format_bytes(pool.own)
            parts.append(f"It took {took} of {pool.name}, where {own} were reckoned for it.")
        if pool.own and _others(pool):
            parts.append(
                f"The machine had {format_bytes(pool.free or 0)} of {pool.name} left, though the"
                " budget had more: other programs held it."
            )
    return " ".join(parts)


def _others(pool: HeldView) -> bool:
    """Whether other programs hold what the budget promises."""
    if pool.free is None:
        return False
    return pool.free < SHORT * pool.budget and pool.free < pool.budget - pool.charged


def _killed(one: IncidentView) -> str:
    start = "It was killed by SIGKILL, which modelport had not sent."
    if one.kernel_kills:
        return f"{start} The kernel counted a kill for want of memory: its out-of-memory killer."
    if one.kernel_kills == 0:
        return (
            f"{start} The kernel counted no kill for want of memory, so a person or another"
            " program did it (kill -9, earlyoom, systemd-oomd). It is treated as memory."
        )
    return f"{start} On a Mac that is jetsam, the system's guard of memory, or somebody's kill -9."


def _memory_steps(one: IncidentView) -> list[str]:
    # That it needs less is said below, with the words to type.
    steps = [one.advice] if one.advice not in ("", SMALLER) else []
    if one.slots and one.slots > 1:
        steps.append(f"fewer requests at once: `ctl set {one.model} slots={one.slots // 2}`")
    if one.context and one.context // 2 >= SMALLEST_CTX:
        steps.append(f"a smaller context: `ctl set {one.model} ctx={one.context // 2}`")
    idle = [b for b in one.beside if not b.leases and any(b.bytes.values())]
    if idle:
        big = max(idle, key=lambda b: sum(b.bytes.values()))
        held = format_amounts(big.bytes)
        steps.append(
            f"more room: {big.model} sat idle beside it with {held}: `ctl unload {big.model}`"
        )
    tight = [pool for pool in one.memory if pool.own and _others(pool)]
    if tight:
        pool = tight[0]
        less = format_bytes(max(0, pool.budget - pool.budget // 10))
        steps.append(
            f"a budget that leaves more to others: `[memory] budget` below {less}"
            " in `ctl config edit`"
        )
    steps.append("or a smaller quantisation of the weights")
    if one.next_variant:
        steps.append(f"once there is more memory, its full size again: `ctl reset {one.model}`")
    return steps


def _permanent_steps(one: IncidentView) -> list[str]:
    first = one.advice or "mend what it said"
    return [first, f"then `ctl load {one.model}` tries it, and so does `ctl reload`"]


def _metal_steps(one: IncidentView) -> list[str]:
    if one.done == "backoff":
        undo = f"update the engine: with another version, or after `ctl reset {one.model}`,"
        return [f"{undo} Metal's tensor units are tried again"]
    return ["update the engine: without Metal's tensor units it does not start either"]


def _crash_meaning(one: IncidentView) -> str:
    if one.status == 0:
        return "The engine left without being asked, as if all were well. That counts as a crash."
    if one.status is None and not one.serving and one.age is None:
        return "The engine could not even be started."
    return "The engine died of a fault of its own, not of memory as far as can be seen."


def _crash_steps(one: IncidentView) -> list[str]:
    steps = [one.advice] if one.advice else []
    engine = f"{one.engine} {one.version}".strip() or "the engine"
    return [*steps, f"if it goes on: another version than {engine}, or less in `args` of the model"]


def _hang_steps(one: IncidentView) -> list[str]:
    steps = [one.advice] if one.advice else []
    name = "answer_stall" if one.serving else "start_stall"
    return [*steps, f"if it was only slow: a longer `[timing] {name}` in `ctl config edit`"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one class is told: what it means, and what to do."""

    meaning: Callable[[IncidentView], str]
    steps: Callable[[IncidentView], list[str]]


def _says(text: str) -> Callable[[IncidentView], str]:
    return lambda _: text


_KINDS: Final[Mapping[str, _Kind]] = {
    ExitClass.OUT_OF_MEMORY: _Kind(_memory_meaning, _memory_steps),
    ExitClass.PERMANENT: _Kind(
        _says("The same start would fail in the same way, so it is not repeated."),
        _permanent_steps,
    ),
    ExitClass.PORT: _Kind(
        _says("Another program took the port between the choice and the start; a new one is used."),
        lambda _: ["nothing, if it happened once"],
    ),
    ExitClass.METAL_INIT: _Kind(
        _says("Apple's Metal did not take the engine's programs: a matter of versions."),
        _metal_steps,
    ),
    ExitClass.CRASH: _Kind(_crash_meaning, _crash_steps),
    ExitClass.HANG: _Kind(
        _says("Its process lived, but did not do its work; it was ended for that."), _hang_steps
    ),
}


def _always(one: IncidentView, state: str) -> list[str]:
    """Last: how to try it now, and where more is said."""
    steps = []
    if state in ("failed", "backoff") and one.exit_class != ExitClass.PERMANENT:
        steps.append(f"to try it now: `ctl reset {one.model}`, then `ctl load {one.model}`")
    return [*steps, f"its whole log: `ctl logs {one.model}`"]
