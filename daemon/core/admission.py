"""Whether a ticket may join the queue, and the words for every refusal of the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.core.budget import Ledger, fits, minus, total
from daemon.core.lifecycle import State
from daemon.core.messages import Bytes, ExitClass, Ticket
from daemon.core.page import Page
from daemon.core.policy import Policy
from daemon.core.problems import Code, Problem
from daemon.core.units import format_bytes

LONGEST_RETRY_AFTER = 30.0  # seconds; some clients give up on a longer one, some sleep it out


@dataclass(frozen=True, slots=True)
class Load:
    """How full the queues are at this moment."""

    total: int
    model: int
    client: int
    bytes: int


def refuse(
    page: Page | None, ticket: Ticket, load: Load, now: float, policy: Policy
) -> Problem | None:
    """Why this ticket cannot even wait; None if it may."""
    if page is None or page.removed:
        return unknown(ticket.model)
    if not page.spec.variants:
        return not_pulled(page.name)
    if page.state is State.FAILED and not ticket.load:
        half_open = page.half_open
        if half_open is None or now < half_open:
            return unavailable(page, now)
    if ticket.load:
        return None
    for full, what in (
        (load.total >= policy.queue_total, "all models"),
        (load.model >= policy.queue_model, f"{page.name}"),
        (load.client >= policy.queue_client, f"this client on {page.name}"),
        (load.bytes + ticket.body_bytes > policy.queue_bytes, "waiting request bodies"),
    ):
        if full:
            return Problem(
                Code.QUEUE_FULL, f"The queue of {what} is full.", "Try again later.", 5.0
            )
    return None


def unknown(model: str) -> Problem:
    return Problem(Code.MODEL_NOT_FOUND, f"There is no model named {model!r}.")


def not_pulled(model: str) -> Problem:
    return Problem(
        Code.NOT_PULLED,
        f"The weights of {model} are not on this machine.",
        f"Get them with: ctl pull {model}",
    )


def died(model: str, exit_class: ExitClass, detail: str) -> Problem:
    """Kept with the model while it is in backoff or failed."""
    why = f" ({detail})" if detail else ""
    return Problem(
        Code.MODEL_UNAVAILABLE,
        f"The backend of {model} died: {exit_class.value.replace('_', ' ')}{why}.",
        f"See: ctl why {model}",
        facts={"exit_class": exit_class.value, "detail": detail},
    )


def unavailable(page: Page, now: float) -> Problem:
    """A failed model's answer: what killed it, and when (if ever) it is tried again by itself."""
    base = page.problem or died(page.name, ExitClass.CRASH, "")
    advice = f"{base.facts['advice']} " if "advice" in base.facts else ""
    if page.half_open is None:
        hint = f"Mend it, then: ctl load {page.name}. The whole story: ctl why {page.name}"
        return Problem(base.code, base.message, hint, None, base.facts)
    wait = max(0.0, page.half_open - now)
    hint = f"{advice}Tried again in {wait:.0f} s when asked for, or now with: ctl load {page.name}"
    return Problem(base.code, base.message, hint, None, {**base.facts, "half_open_in": wait})


def exhausted(page: Page, died: Problem, ledger: Ledger) -> Problem:
    """It ran out of memory in its smallest form: the numbers, and what would help."""
    need = page.price()
    budget = {pool: ledger.budget.get(pool, 0) for pool in need}
    return Problem(
        died.code,
        f"{died.message} {_words_of(page)} needs {_bytes(need)}, the budget is {_bytes(budget)}.",
        died.hint,
        facts={
            **died.facts,
            "needed": dict(need),
            "budget": budget,
            "advice": "Choose a smaller context (ctx) or quantisation (Q4), or free memory.",
        },
    )


def _words_of(page: Page) -> str:
    name = page.variant.id if page.variant else ""
    return f"Its smallest form ({name})" if page.rung else f"It ({name})"


def degrading(page: Page, tries: int, later: float) -> Problem:
    """One request has seen enough starts run out of memory; the next one goes on from there."""
    degraded = page.degraded()
    said = f" Degraded: {degraded}." if degraded else ""
    return Problem(
        Code.BACKOFF,
        f"{page.name} ran out of memory {tries} times while this request waited.{said}",
        "Try again: it is started in that form." if degraded else "Try again.",
        retry_after(later),
        facts={"tries": tries, "failures": page.failures},
    )


def waited_out(
    model: str, claim: str | None, *, paused: bool = False, short: bool = False
) -> Problem:
    """The queue's deadline passed. ``short``: the budget had room, the machine had none."""
    behind = f" {claim} is being given room first." if claim not in (None, model) else ""
    if short:
        behind = " Other programs hold the machine's memory."
    if paused:
        behind = " Serving is paused; go on with: ctl resume"
    return Problem(
        Code.QUEUE_TIMEOUT,
        f"{model} did not become free in time.{behind}",
        "See who holds the memory: ctl ps",
        5.0,
    )


def paused(until: float | None, now: float) -> Problem:
    """Nothing is served for a while, as somebody asked."""
    if until is None:
        return Problem(
            Code.PAUSED, "Serving is paused.", "Go on with: ctl resume", LONGEST_RETRY_AFTER
        )
    left = max(0.0, until - now)
    return Problem(
        Code.PAUSED,
        f"Serving is paused for another {left:.0f} s.",
        "Try again then, or go on now with: ctl resume",
        retry_after(left),
        facts={"seconds": left},
    )


def retry_after(seconds: float) -> float:
    """An honest wait, as far as clients bear one."""
    return min(max(1.0, seconds), LONGEST_RETRY_AFTER)


def held_up(model: str, busy: Sequence[str], waited: float, later: float) -> Problem:
    """``memory_policy = wait_then_fail``: those that would have to leave are busy for too long.

    ``later``: seconds until the first of them could be made to leave.
    """
    names = ", ".join(sorted(busy))
    return Problem(
        Code.QUEUE_TIMEOUT,
        f"{model} has no room: {names} kept the memory busy for {waited:.0f} s.",
        "Try again later, or let it wait longer: memory.policy = wait",
        retry_after(later),
        facts={"busy": sorted(busy), "waited": waited},
    )


def preempted(model: str, claim: str) -> Problem:
    """``memory_policy = preempt``: another model has waited long enough."""
    return Problem(
        Code.PREEMPTED,
        f"{model} had to make room for {claim}.",
        "Try again: it waits its turn then.",
        1.0,
        facts={"claim": claim},
    )


def drained_too_long(model: str, seconds: float) -> Problem:
    """``max_drain``: what ran on a backend that leaves took longer than it may."""
    return Problem(
        Code.PREEMPTED,
        f"{model} is leaving, and its last requests took more than {seconds:.0f} s.",
        "Try again.",
        1.0,
    )


def never_fits(page: Page, ledger: Ledger, pins: Sequence[Page]) -> Problem:
    """No variant goes into the budget, even with everything gone that may go."""
    if not page.spec.variants:  # they went while it waited
        return not_pulled(page.name)
    least = (page.allowed() or page.spec.variants)[-1]
    facts: dict[str, object] = {
        "needed": dict(least.need),
        "budget": dict(ledger.budget),
        "variant": least.id,
    }
    if pins and fits(least.need, ledger.budget):
        held = total(ledger.charged(p.name) for p in pins)
        names = ", ".join(sorted(p.name for p in pins))
        best = next(v for v in page.allowed() if fits(v.need, ledger.budget))
        facts["without_pins"] = best.id  # the largest context that there would be room for
        return Problem(
            Code.ALL_PINNED,
            f"{page.name} needs {_bytes(least.need)} at the least ({least.id}), "
            f"but pinned models hold {_bytes(held)} of {_bytes(ledger.budget)}.",
            f"Unpin one of: {names}",
            facts={**facts, "pinned": names.split(", ")},
        )
    short = minus(least.need, ledger.budget)
    lacking = {pool: n for pool, n in short.items() if n > 0}
    return Problem(
        Code.MODEL_TOO_LARGE,
        f"{page.name} needs {_bytes(least.need)} at the least ({least.id}), the budget is "
        f"{_bytes(ledger.budget)}: {_bytes(lacking)} too much.",
        "Give it a smaller context (ctx), choose a smaller quantisation, or raise memory.budget.",
        facts=facts,
    )


def _bytes(amounts: Bytes) -> str:
    if len(amounts) == 1:
        return format_bytes(next(iter(amounts.values())))
    return " + ".join(f"{format_bytes(n)} {pool}" for pool, n in sorted(amounts.items()))
