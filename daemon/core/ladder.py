"""The out-of-memory ladder: step by step smaller, remembered, and climbed back one day.

A model stands on a *rung*, which allows some of its variants (``Variant.allowed_on``). Each time it
runs out of memory it goes one rung down, and never again to a variant before the one that failed:
they are told from large to small. On the rung ``ModelSpec.alone`` the same variant is started once
more, with no other model beside it.

After ``Policy.climb_back`` a model tries its full size again, once. Until that has gone well for a
while (``Life.healthy``) the next failure puts it back where it stood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from daemon.core.messages import Standing, Variant
from daemon.core.page import Page
from daemon.core.policy import Policy

HOUR = 1 / 24  # of ``Policy.climb_back``, which is a day unless told otherwise


def step_down(page: Page, *, others: bool) -> bool:
    """To the next rung that has a variant; False where there is none. ``others``: models run beside
    it that could leave."""
    variants = page.spec.variants
    used = page.variant.id if page.variant else ""
    index = next((i for i, v in enumerate(variants) if v.id == used), 0)
    rung = max(page.rung, page.variant.rung if page.variant else 0)
    if rung < page.spec.alone and variants and variants[index].allowed_on(page.spec.alone):
        rung = page.spec.alone - 1  # what is given up before that, it did without
    for below in range(rung + 1, max(rung + 1, _last(variants)) + 1):
        alone = below == page.spec.alone
        smallest = max(page.smallest, index if alone else index + 1)
        if (others or not alone) and any(v.allowed_on(below) for v in variants[smallest:]):
            page.rung, page.smallest, page.failed, page.tried = below, smallest, used, False
            return True
    return False  # the last one stays allowed, for the half-open try


def _last(variants: Sequence[Variant]) -> int:
    return max((v.rung if v.until is None else v.until for v in variants), default=0)


def standing(page: Page) -> Standing | None:
    """What is to be remembered; None at full size."""
    if page.rung == 0:
        return page.before
    return Standing(page.rung, page.failed, page.failures, page.margin)


def stand(page: Page, known: Standing | None, now: float, policy: Policy) -> None:
    """Put it where it is known to stand; None: at its full size."""
    page.rung = page.smallest = page.failures = 0
    page.failed, page.margin, page.tried = "", False, True
    page.before = page.climb_at = None
    if known is None:
        return
    index = next((i for i, v in enumerate(page.spec.variants) if v.id == known.failed), None)
    smallest = 0 if index is None else index + (known.rung != page.spec.alone)
    if any(v.allowed_on(known.rung) for v in page.spec.variants[smallest:]):
        page.rung, page.smallest, page.failures = known.rung, smallest, known.failures
        page.failed, page.margin = known.failed, known.margin
        page.degraded_at = now - known.age
        page.climb_at = now + max(0.0, policy.climb_back - known.age)


def climb(page: Page) -> None:
    """Its next start is at full size; where it stood is kept for the case that this fails."""
    page.before = standing(page)
    page.rung = page.smallest = 0
    page.margin, page.climb_at = False, None


def fall_back(page: Page, now: float, policy: Policy) -> bool:
    """The try at full size has failed; False where there was none."""
    if page.before is None:
        return False
    stand(page, replace(page.before, failures=page.before.failures + 1, age=0.0), now, policy)
    return True
