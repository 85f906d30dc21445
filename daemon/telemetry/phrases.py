"""The scheduler's events in plain words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from daemon.core.units import format_bytes

Facts = Mapping[str, Any]


def _amount(amounts: Mapping[str, int]) -> str:
    return " + ".join(f"{format_bytes(n)} {pool}" for pool, n in sorted(amounts.items()))


def _exited(model: str, facts: Facts) -> str:
    if facts["asked"]:
        return f"{model} stopped"
    why = facts["exit_class"].replace("_", " ")
    detail = f": {facts['detail']}" if facts["detail"] else ""
    return f"{model} died ({why}){detail}"


def _for(seconds: float | None) -> str:
    return "" if seconds is None else f" for {seconds:.0f} s"


def _stop(model: str, facts: Facts) -> str:
    reasons = {
        "evict": "to make room",
        "unload": "as asked",
        "changed": "because its configuration changed",
        "idle": "after its keep-alive",
        "pause": "for a pause",
        "pressure": "because other programs need memory",
        "over_budget": "to keep the memory budget",
        "outgrown": "because it has grown too much",
        "climb": "to try its full size again",
    }
    return f"{model} is stopped {reasons.get(facts['reason'], facts['reason'])}"


_WORDS: dict[str, Callable[[str, Facts], str]] = {
    "start": lambda m, f: f"{m} starts ({f['variant']}, {_amount(f['bytes'])})",
    "ready": lambda m, f: f"{m} is ready after {f['seconds']:.2f} s",
    "adopted": lambda m, f: f"{m} is taken over, still running",
    "evict": lambda m, f: f"{m} makes room for {f['claim']}",
    "stop": _stop,
    "exited": _exited,
    "backoff": lambda m, f: f"{m} may start again in {f['seconds']:.1f} s",
    "degraded": lambda m, f: f"{m} is degraded: {f['text']}",
    "climbs": lambda m, f: f"{m} may try its full size again ({f['variant']})",
    "failed": lambda m, f: f"{m} is given up: {f['detail'] or f['exit_class']}",
    "cut": lambda m, f: f"{m} ends {f['requests']} running requests: {f['reason']}",
    "unfit": lambda m, f: f"{m} is pinned, but does not run: {f['detail']}",
    "returns": lambda m, f: f"{m} comes back, memory is free again",
    "outgrown": lambda m, f: (
        f"{m} grew from {_amount(f['first'])} to {_amount(f['now'])} and is started anew"
    ),
    "paused": lambda m, f: "serving is paused" + _for(f["seconds"]),
    "resumed": lambda m, f: "serving goes on",
    "pressure": lambda m, f: f"other programs need memory: {_amount(f['free'])} left",
    "pressure_over": lambda m, f: "memory is free again",
    "grown": lambda m, f: f"{m} has grown to {_amount(f['charged'])}",
}


def phrase(kind: str, model: str, facts: Facts) -> str:
    """One sentence for an event of the core; an unknown kind is told by its name."""
    words = _WORDS.get(kind)
    return words(model, facts) if words else f"{model}: {kind}".removeprefix(": ")
