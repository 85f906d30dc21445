"""Does it fit? Asked before a start, answered with numbers and with what could be done. Pure.

The scheduler decides by itself; this is for people: what a load would get, whom it would cost, and
the choices there are when room is tight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from daemon.core.budget import fits, minus, total
from daemon.core.eviction import Resident, choose_victims
from daemon.core.messages import Bytes
from daemon.core.units import MIB, format_amounts, format_bytes
from daemon.machine.base import UNIFIED, MachineFacts
from daemon.machine.wired_limit import advice, most_mb


class Verdict(StrEnum):
    """What a load as it is asked for would come to."""

    FITS = "fits"  # beside everything that runs
    EVICTS = "evicts"  # after others have gone
    SHRINKS = "shrinks"  # with a smaller context only
    REFUSED = "refused"  # not at all


@dataclass(frozen=True, slots=True)
class Way:
    """A context (tokens of one slot; None where the model has none) and what it takes."""

    context: int | None
    need: Bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing to do. ``key`` is stable; ``context`` and ``fit`` are what a load is then asked
    for; ``command`` comes before it, by the user's own hand."""

    key: str  # shrink | raise_limit | both | unpin | ignore
    text: str
    context: int | None = None
    fit: str = ""
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preflight:
    """The answer. ``given``: what it would get; None where it is refused."""

    model: str
    verdict: Verdict
    wanted: Way
    given: Way | None
    evicts: tuple[str, ...]
    pinned: tuple[str, ...]
    text: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Raise:
    """What a raised GPU limit would give: the budget then, and the command for some bytes."""

    budget: Bytes
    command: Callable[[int], tuple[str, ...] | None]


def gpu_limit(facts: MachineFacts, budget: Bytes) -> Raise | None:
    """What a raised limit of a Mac's GPU would give; None where there is no such limit."""
    pool = facts.pool(UNIFIED)
    if facts.platform != "darwin" or pool is None or pool.limit is None:
        return None
    now = budget.get(UNIFIED, 0)
    most = {**budget, UNIFIED: max(now, most_mb(pool.total) * MIB)}
    return Raise(most, lambda more: tuple(advice(now + more, facts).command.split()) or None)


def preflight(
    model: str,
    ways: Sequence[Way],
    budget: Bytes,
    residents: Sequence[Resident],
    pins: frozenset[str] = frozenset(),
    *,
    shrink: bool = True,
    limit: Raise | None = None,
) -> Preflight:
    """Judge a load. ``ways``: as wanted first, then smaller ones down to the smallest useful.

    ``residents`` hold memory now, those in ``pins`` for good. ``shrink``: a smaller way is taken
    without asking.
    """
    others = [r for r in residents if r.model != model]
    kept = [r for r in others if r.model in pins]
    room = minus(budget, total(r.charge for r in kept))
    wanted = ways[0]
    smaller = next((way for way in ways[1:] if fits(way.need, room)), None)
    given = wanted if fits(wanted.need, room) else (smaller if shrink else None)
    evicts: tuple[str, ...] = ()
    if given is not None:
        free = minus(budget, total(r.charge for r in others))
        leaving = choose_victims(given.need, free, [r for r in others if r not in kept])
        evicts = tuple(r.model for r in leaving or ())
    verdict = _verdict(wanted, given, evicts)
    tight = verdict in (Verdict.SHRINKS, Verdict.REFUSED)
    return Preflight(
        model,
        verdict,
        wanted,
        given,
        evicts,
        tuple(r.model for r in kept),
        _words(model, verdict, wanted, given, room, budget, kept, evicts),
        _choices(wanted, ways[1:], smaller, room, kept, budget, limit) if tight else (),
    )


def _verdict(wanted: Way, given: Way | None, evicts: Sequence[str]) -> Verdict:
    if given is None:
        return Verdict.REFUSED
    if given is not wanted:
        return Verdict.SHRINKS
    return Verdict.EVICTS if evicts else Verdict.FITS


def _words(
    model: str,
    verdict: Verdict,
    wanted: Way,
    given: Way | None,
    room: Bytes,
    budget: Bytes,
    kept: Sequence[Resident],
    evicts: Sequence[str],
) -> str:
    needs = f"{model} needs {format_amounts(wanted.need)}{_with(wanted)}"
    leaves = f"; {', '.join(evicts)} would be evicted" if evicts else ""
    if verdict in (Verdict.FITS, Verdict.EVICTS):
        return f"{needs}: it fits{leaves}."
    pins = f" beside the pinned {', '.join(r.model for r in kept)}" if kept else ""
    there = {pool: max(0, room.get(pool, 0)) for pool in wanted.need}
    says = f"{needs}, there is room for {format_amounts(there)}{pins}"
    if kept:
        says += f" of {format_amounts({pool: budget.get(pool, 0) for pool in wanted.need})}"
    if given is None:
        return f"{says}."
    return f"{says}: it would get{_with(given, '')} ({format_amounts(given.need)}){leaves}."


def _with(way: Way, word: str = " with") -> str:
    return f"{word} a context of {way.context}" if way.context else ""


def _choices(
    wanted: Way,
    smaller_ways: Sequence[Way],
    smaller: Way | None,
    room: Bytes,
    kept: Sequence[Resident],
    budget: Bytes,
    limit: Raise | None,
) -> tuple[Choice, ...]:
    found: list[Choice] = []
    if smaller is not None:
        text = f"A context of {smaller.context} ({format_amounts(smaller.need)})"
        found.append(Choice("shrink", text, smaller.context, "shrink"))
    if limit is not None:
        found.extend(_raised(wanted, smaller_ways, smaller, room, budget, limit))
    if kept and fits(wanted.need, budget):
        names = ", ".join(r.model for r in kept)
        found.append(Choice("unpin", f"Unpin one of: {names}"))
    short = {p: n for p, n in minus(wanted.need, room).items() if n > 0}
    text = f"As it is, {format_amounts(short)} over: it may run out of memory"
    found.append(Choice("ignore", text, wanted.context, "ignore"))
    return tuple(found)


def _raised(
    wanted: Way,
    smaller_ways: Sequence[Way],
    smaller: Way | None,
    room: Bytes,
    budget: Bytes,
    limit: Raise,
) -> list[Choice]:
    """With a raised GPU limit: as wanted if that does, else the largest context that it gives."""
    more = total([room, minus(limit.budget, budget)])
    for way in (wanted, *smaller_ways):
        if way is smaller:
            break
        if not fits(way.need, more):
            continue
        missing = {p: n for p, n in minus(way.need, room).items() if n > 0}
        command = limit.command(sum(missing.values()))
        if command is None:
            break
        both = way is not wanted
        text = f"Raise the GPU limit by {format_bytes(sum(missing.values()))}"
        text += f", and a context of {way.context}" if both else ""
        return [Choice("both" if both else "raise_limit", text, way.context, "shrink", command)]
    return []
