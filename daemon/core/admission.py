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
        f"See: ctl logs {model}",
        facts={"exit_class": exit_class.value, "detail": detail},
    )


def unavailable(page: Page, now: float) -> Problem:
    """A failed model's answer: what killed it, and when (if ever) it is tried again by itself."""
    base = page.problem or died(page.name, ExitClass.CRASH, "")
    if page.half_open is None:
        hint = f"Mend it, then: ctl load {page.name}. The whole story: ctl logs {page.name}"
        return Problem(base.code, base.message, hint, None, base.facts)
    wait = max(0.0, page.half_open - now)
    hint = f"Tried again in {wait:.0f} s when asked for, or now with: ctl load {page.name}"
    return Problem(base.code, base.message, hint, None, {**base.facts, "half_open_in": wait})


def waited_out(model: str, claim: str | None) -> Problem:
    """The queue's deadline passed."""
    behind = f" {claim} is being given room first." if claim not in (None, model) else ""
    return Problem(
        Code.QUEUE_TIMEOUT,
        f"{model} did not become free in time.{behind}",
        "See who holds the memory: ctl ps",
        5.0,
    )


def never_fits(page: Page, ledger: Ledger, pins: Sequence[Page]) -> Problem:
    """No variant goes into the budget, even with everything gone that may go."""
    if not page.spec.variants:  # they went while it waited
        return not_pulled(page.name)
    least = (page.allowed() or page.spec.variants)[-1]
    facts: dict[str, object] = {"needed": dict(least.need), "budget": dict(ledger.budget)}
    if pins and fits(least.need, ledger.budget):
        held = total(ledger.charged(p.name) for p in pins)
        names = ", ".join(sorted(p.name for p in pins))
        return Problem(
            Code.ALL_PINNED,
            f"{page.name} needs {_bytes(least.need)}, but pinned models hold "
            f"{_bytes(held)} of {_bytes(ledger.budget)}.",
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
