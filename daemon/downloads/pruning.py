"""What of the cache nobody needs: decided from what is there and what is in use. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.downloads.cache import Holding, Partial

DAY: Final = 86_400.0
GIVEN_UP: Final = 3600.0
"""Seconds without a byte, after which a download of another program counts as given up."""


@dataclass(frozen=True, slots=True)
class Use:
    """Who needs a file: ``loaded``, ``pinned``, ``pulled`` (just now), or ``configured``."""

    model: str
    why: str


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that could go. ``kind``: unused, old (another commit has replaced it), partial.

    ``days``: without use; ``kept``: why it stays all the same, "" if it does not.
    """

    kind: str
    name: str
    files: tuple[Path, ...]
    size: int
    days: int
    models: tuple[str, ...] = ()
    kept: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the cache. ``uses``: by file; ``used``: our own record, by path;
    ``pulling``: repositories from which something comes just now, or will when the daemon is back.
    """

    now: float
    uses: Mapping[Path, tuple[Use, ...]]
    used: Mapping[str, float]
    pulling: frozenset[str] = frozenset()


def choose(
    holdings: Iterable[Holding],
    partials: Iterable[Partial],
    facts: Facts,
    *,
    days: float,
    configured: bool = False,
) -> list[Item]:
    """What has been without use for ``days``, what newer commits have replaced, and what is left of
    downloads; the largest first. What is ``configured`` stays unless that is asked for; what is
    loaded, pinned or being pulled stays always."""
    there = list(holdings)
    newer = {(h.repo, _names(h)) for h in there if h.current}
    found = []
    for holding in there:
        replaced = not holding.current and (holding.repo, _names(holding)) in newer
        item = _item(holding, facts, replaced=replaced)
        if replaced or item.days >= days:
            found.append(_keep(item, facts, configured=configured, replaced=replaced))
    found += [_left(one, facts) for one in partials]
    return sorted(found, key=lambda item: (bool(item.kept), -item.size, item.name))


def _names(holding: Holding) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in holding.files))


def _item(holding: Holding, facts: Facts, *, replaced: bool) -> Item:
    known = [facts.used.get(str(path.absolute()), 0.0) for path in holding.files]
    known += [facts.used.get(str(path.parent.absolute()), 0.0) for path in holding.files[:1]]
    days = int(max(0.0, facts.now - max([holding.seen, *known])) // DAY)
    models = dict.fromkeys(use.model for path in holding.files for use in facts.uses.get(path, ()))
    kind = "old" if replaced else "unused"
    return Item(kind, holding.name, holding.files, holding.size, days, tuple(models))


def _keep(item: Item, facts: Facts, *, configured: bool, replaced: bool) -> Item:
    """With the reason why it stays, if there is one."""
    uses = [use for path in item.files for use in facts.uses.get(path, ())]
    for why in ("loaded", "pinned"):
        names = dict.fromkeys(use.model for use in uses if use.why == why)
        if names and not (replaced and why == "pinned"):
            return _kept(item, f"{', '.join(names)} is {why}")
    if _repo(item) in facts.pulling:
        return _kept(item, "it is being pulled")
    names = dict.fromkeys(use.model for use in uses if use.why == "configured")
    if names and not configured and not replaced:
        return _kept(item, f"it is configured as {', '.join(names)}")
    return item


def _left(one: Partial, facts: Facts) -> Item:
    days = int(max(0.0, facts.now - one.seen) // DAY)
    item = Item("partial", f"hf:{one.repo}", (one.file,), one.size, days)
    if one.repo in facts.pulling:
        return _kept(item, "it is being pulled")
    if facts.now - one.seen < GIVEN_UP and not one.ours:
        return _kept(item, "bytes came within the last hour")
    return item


def _repo(item: Item) -> str:
    return item.name.removeprefix("hf:").partition(":")[0]


def _kept(item: Item, why: str) -> Item:
    return Item(item.kind, item.name, item.files, item.size, item.days, item.models, why)
