"""From the daemon's own values to those that it shows (``daemon.views``). Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable

from daemon.backends.backend import Backend
from daemon.core.eviction import Resident
from daemon.core.explain import Claim, Pool, Wait
from daemon.core.messages import Bytes
from daemon.core.page import Page
from daemon.core.units import format_bytes
from daemon.files import DISK
from daemon.logs.files import lost_lines
from daemon.preflight import Preflight
from daemon.views import ChoiceView, ClaimView, FitView, PoolView, VictimView, WaitView


def left(at: float | None, now: float) -> float | None:
    """Seconds until then; None where nobody knows."""
    return None if at is None else round(max(0.0, at - now), 3)


def pool_view(pool: Pool, source: str) -> PoolView:
    return PoolView(
        name=pool.name,
        budget=pool.budget,
        committed=pool.committed,
        settling=pool.settling,
        measured=pool.measured,
        free=pool.free,
        low=pool.low,
        pressed=pool.pressed,
        source=source,
    )


def claim_view(claim: Claim, now: float) -> ClaimView:
    return ClaimView(
        model=claim.model,
        age=round(max(0.0, now - claim.since), 3),
        need=dict(claim.need),
        victims=[
            VictimView(
                model=victim.model,
                state=victim.state,
                leases=victim.leases,
                seconds=left(victim.free_at, now),
                bytes=dict(victim.bytes),
            )
            for victim in claim.victims
        ],
    )


def wait_view(wait: Wait, now: float) -> WaitView:
    return WaitView(
        model=wait.model,
        requests=wait.requests,
        loads=wait.loads,
        age=round(wait.oldest_age, 3),
        kind=wait.why.kind,
        why=wait.why.text,
        seconds=left(wait.why.until, now),
    )


def troubles(runs: Iterable[object]) -> list[str]:
    """What a disk does not take: serving goes on, but something is late or lost."""
    told = DISK.troubles()
    if lost := lost_lines():
        told.append(f"modelport's own log lacks {lost} lines that could not be written")
    for run in runs:
        one = run.log_trouble if isinstance(run, Backend) else None
        if isinstance(run, Backend) and one is not None and (one.dropped or one.errno is not None):
            why = f" ({os.strerror(one.errno)})" if one.errno is not None else ""
            lost_bytes = format_bytes(one.dropped)
            told.append(f"the log of {run.model} lacks {lost_bytes} that could not be written{why}")
    return told


def where(run: Backend, charged: dict[str, int]) -> str:
    """``100% gpu0``, ``60% cpu``: the share of each memory; main memory is the CPU's."""
    total = sum(charged.values()) or 1
    shares = [(pool, round(100 * n / total)) for pool, n in sorted(charged.items()) if n]
    names = {"ram": "cpu", "unified": "gpu" if run.installed.accelerators else "cpu"}
    return " ".join(f"{share}% {names.get(pool, pool)}" for pool, share in shares)


def resident(page: Page, charged: Bytes) -> Resident:
    return Resident(
        page.name, charged, len(page.leases) + len(page.queue), page.idle_since(), page.load_seconds
    )


def fit_view(found: Preflight, setting: str, budget: Bytes) -> FitView:
    given = found.given
    return FitView(
        model=found.model,
        verdict=found.verdict.value,
        text=found.text,
        setting=setting,
        wanted_context=found.wanted.context,
        wanted=dict(found.wanted.need),
        context=given.context if given else None,
        need=dict(given.need) if given else {},
        budget=dict(budget),
        evicts=list(found.evicts),
        pinned=list(found.pinned),
        choices=[
            ChoiceView(
                key=c.key, text=c.text, context=c.context, fit=c.fit, command=list(c.command)
            )
            for c in found.choices
        ],
    )
