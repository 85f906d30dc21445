"""From the daemon's own values to those that it shows (``daemon.views``). Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from daemon.backends.backend import Backend
from daemon.backends.prepare import Prepared
from daemon.config.catalog import Catalog
from daemon.config.finds import Find, HeaderFacts
from daemon.core.eviction import Resident
from daemon.core.explain import Claim, Pool, Wait
from daemon.core.messages import Bytes
from daemon.core.page import Page
from daemon.core.units import format_bytes
from daemon.dialects.manner import reachable
from daemon.discovery.header import facts_of
from daemon.files import DISK
from daemon.logs.files import lost_lines
from daemon.views import (
    BackendView,
    ChoiceView,
    ClaimView,
    FitView,
    ModelView,
    PoolView,
    ScheduleView,
    VerdictView,
    VictimView,
    WaitView,
)

if TYPE_CHECKING:
    from daemon.preflight import Preflight


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


def failed_lines(lines: Iterable[ScheduleView]) -> list[str]:
    """Lines of the calendar that came to nothing the last time."""
    return [
        f"the schedule could not {one.do} {one.model}: {one.last_text}"
        for one in lines
        if one.last == "failed"
    ]


@dataclass(frozen=True, slots=True)
class About:
    """What the files of a model say, read in full or (one that nobody named yet) as it was found.
    ``size``: bytes; ``context``: tokens; 0 and "" where they say nothing."""

    place: str = ""
    size: int = 0
    quantisation: str = ""
    context: int = 0
    parameters: int = 0
    architecture: str = ""
    abilities: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    template: str = ""


def about_files(item: Prepared, find: Find | None) -> About:
    """See :class:`About`."""
    place = find.place if find is not None else ""
    weights = item.weights
    if weights is not None:
        facts, files = facts_of(weights, sees=item.sees), weights.files
    elif find is not None:
        facts, files = find.facts or HeaderFacts(), find.files
    else:
        return About()
    own = "its own" if facts.template else ""
    built_in = find.template if find is not None else ""
    return About(
        place,
        facts.size or (find.size if find is not None else 0),
        facts.quantisation,
        facts.context,
        facts.parameters,
        facts.architecture,
        facts.abilities,
        tuple(map(str, files)),
        str(item.template or (f"{built_in}, built into llama.cpp" if built_in else own)),
    )


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


def ladder_view(page: Page, now: float, wall: float) -> dict[str, Any]:
    """Where a model stands on its ladder, for the views of it and of its backend. ``wall``: Unix
    time of ``now``."""
    degraded = page.degraded()
    if not degraded:
        small = page.variant if page.state.resident else None
        if small is None or small.rung == 0:
            return {}
        return {"degraded": f"{small.id} (its next start is at full size)"}
    climbs = None if page.climb_at is None else round(max(0.0, page.climb_at - now), 3)
    since = round(wall - (now - page.degraded_at), 3)
    return {"degraded": degraded, "degraded_since": since, "climbs_in": climbs}


def model_view(
    item: Prepared,
    page: Page | None,
    catalog: Catalog,
    tested: VerdictView | None,
    now: float,
    wall: float,
) -> ModelView:
    """A model as its next start will be, and where it stands. ``wall``: Unix time of ``now``."""
    model, best = item.model, item.best
    price = item.prices.get(best.id) if best else None
    problem = item.problem or (page.problem if page else None)
    about = about_files(item, catalog.finds.get(model.name))
    return ModelView(
        name=model.name,
        aliases=list(model.aliases),
        state=page.state.label if page else "stopped",
        engine=item.engine_name,
        source=item.source,
        kind=item.kind,
        size=about.size or model.size,
        quantisation=about.quantisation or model.quant,
        context=best.ctx if best else model.ctx,
        context_max=about.context or None,
        slots=model.slots,
        pinned=page.pinned if page else model.pin,
        keep_alive=model.keep_alive,
        routes=sorted(reachable(item.routes)),
        estimate=dict(item.spec.variants[0].need) if item.spec.variants else {},
        breakdown=asdict(price) if price else {},
        variants=[v.id for v in item.spec.plain],
        problem=problem.text if problem else "",
        preset=model.preset,
        args=list(model.args),
        pulled=item.pulled,
        sees=item.sees,
        choice=model.choice.text if model.choice else "",
        warnings=list(model.warnings),
        place=about.place,
        parameters=about.parameters or None,
        abilities=list(about.abilities),
        architecture=about.architecture,
        files=list(about.files),
        mmproj=str(item.mmproj) if item.mmproj is not None else "",
        template=about.template,
        params=dict(model.params.default),
        clash=catalog.clashes.get(model.name, ""),
        tested=tested,
        **(ladder_view(page, now, wall) if page else {}),
    )


def backend_view(
    page: Page, run: Backend, charged: dict[str, int], rescued: int, now: float, wall: float
) -> BackendView:
    """A process of ours and what it is charged. ``wall``: Unix time of ``now``."""
    expires = page.expires_at()
    rest = None if expires is None else max(0.0, expires - now)
    grown = charged != dict(run.variant.need)
    return BackendView(
        model=page.name,
        engine=run.engine.name,
        generation=run.generation,
        state=page.state.label,
        pid=run.pid,
        keeper_pid=run.keeper.hello.keeper_pid if run.keeper else None,
        address=str(run.holding.target),
        where=where(run, charged),
        variant=run.variant.id,
        context=run.plan.running.ctx,
        slots=run.plan.running.slots,
        leases=len(page.leases),
        queue=len(page.queue),
        footprint=charged,
        footprint_source="measured" if grown else "estimated",
        measured=run.measured,
        keep_alive_left=rest,
        pinned=page.pinned,
        started_at=run.started_at,
        ready_at=run.ready_at,
        log=str(run.places.log),
        warning=run.installed.warning,
        rescued=rescued,
        version=run.installed.version,
        **ladder_view(page, now, wall),
    )


_DOWN = ("backoff", "failed")


def pinned_text(model: str, pinned: bool) -> str:
    return f"{model} is pinned: never evicted" if pinned else f"{model} may be evicted again"


def reset_text(model: str, crashes: int, state: str, degraded: str = "") -> str:
    forgotten = f": {crashes} crash{'es' if crashes > 1 else ''} forgotten" if crashes else ""
    was = f", it was in {state}" if state == "backoff" else f", it had {state}"
    again = f"{model} may be started again{forgotten}{was if state in _DOWN else ''}"
    if not degraded:
        return again
    runs = state in ("starting", "ready", "draining")
    on = f" (what runs goes on as it is: ctl unload {model})" if runs else ""
    return f"{again}; its next start is at full size{on}"
