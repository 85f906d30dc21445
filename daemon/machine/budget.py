"""How many bytes all backends together may take, per pool. Pure: facts in, bytes out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from daemon.core.problems import Code, Problem, ProblemError
from daemon.core.units import GIB, MIB, format_bytes, parse_bytes
from daemon.machine.base import RAM, UNIFIED, USER_LIMIT, MachineFacts, PoolFacts

Tier = Literal["safe", "balanced", "aggressive"]

# Halves of the reserve that each tier leaves to the system and to other programs.
_HALVES: Final[dict[Tier, int]] = {"safe": 4, "balanced": 2, "aggressive": 1}
_PERCENT: Final = re.compile(r"\s*([0-9]{1,3}(?:\.[0-9]{1,3})?)\s*%\s*", re.ASCII)


def budget(
    setting: str | Mapping[str, str] | None,
    tier: Tier,
    facts: MachineFacts,
    *,
    own: Mapping[str, int] | None = None,
) -> Mapping[str, int]:
    """Bytes for backends in every pool of ``facts``.

    ``setting`` is ``[memory] budget``: an amount or a percentage of the pool, for the pool that
    models are loaded into (unified, every GPU, or ``ram`` where there is neither), or a table with
    one of them per pool; what it leaves out, the machine decides by ``tier``. ``own`` is what our
    backends hold already: it counts as free.

    Raises ProblemError(CONFIG_INVALID) where the setting is not understood, names a pool that is
    not there, is larger than its pool, or leaves several GPUs open.
    """
    held = own or {}
    budgets = {pool.name: _automatic(pool, tier, held.get(pool.name, 0)) for pool in facts.pools}
    if isinstance(setting, str):
        budgets |= _for_all(setting, facts)
    elif setting:
        budgets |= {name: _for_pool(name, text, facts) for name, text in setting.items()}
    return budgets


def main_pools(facts: MachineFacts) -> tuple[PoolFacts, ...]:
    """The pools that models are loaded into: unified memory, else GPUs, else ``ram``."""
    others = tuple(pool for pool in facts.pools if pool.name != RAM)
    return others or facts.pools


def reserve(pool: PoolFacts, tier: Tier) -> int:
    """Bytes of ``pool`` that ``tier`` leaves to the system and to other programs.

    Unified memory: 3 GiB or an eighth of it, whichever is more. Cards: a 24th of them, between
    256 MiB and 1 GiB, for screens and what drivers take unseen. Main memory: a tenth of what there
    is in all; its budget keeps the same share of what is available. ``safe`` doubles them,
    ``aggressive`` halves them.
    """
    halves = _HALVES[tier]
    if pool.name == UNIFIED:
        return max(3 * GIB, pool.total // 8) * halves // 2
    if pool.name == RAM:
        return _ceiling(pool) * halves // 20
    return min(GIB, max(256 * MIB, pool.total // 24)) * halves // 2


def startable(
    budgets: Mapping[str, int], own: Mapping[str, int], free: Mapping[str, int]
) -> dict[str, int]:
    """Bytes that our backends together may hold at most if one is started now, by pool.

    ``own`` is what they hold by measure (a backend that still loads: what it is charged),
    ``free`` what the machine can give as seen now (``observe.free()``; on a Mac free, inactive and
    purgeable pages). Budgets were made from what the machine has; this is what other programs have
    left of it. Never more than the budget; a pool of which nothing is known keeps its budget.
    """
    return {
        pool: min(amount, own.get(pool, 0) + free[pool]) if pool in free else amount
        for pool, amount in budgets.items()
    }


def _ceiling(pool: PoolFacts) -> int:
    return pool.total if pool.limit is None else min(pool.limit, pool.total)


def _automatic(pool: PoolFacts, tier: Tier, held: int) -> int:
    """A pool's budget where the user has not set one."""
    ceiling = _ceiling(pool)
    if pool.name == UNIFIED:
        # Who raised the limit himself has decided about the reserve, too.
        left = pool.total if pool.source == USER_LIMIT else pool.total - reserve(pool, tier)
        return max(0, min(ceiling, left))
    available = min(ceiling, pool.free + held)
    if pool.name == RAM:  # 90% of what is available
        return max(0, available - available * _HALVES[tier] // 20)
    kept = reserve(pool, tier)
    # Where others hold some of the card, half of the reserve must do: a full budget may not look
    # like pressure (see daemon.machine.pressure).
    return max(0, min(ceiling - kept, available - kept // 2))


def _for_all(text: str, facts: MachineFacts) -> dict[str, int]:
    pools = main_pools(facts)
    if not pools:
        raise _invalid("memory.budget", "this machine does not tell how much memory it has")
    if len(pools) > 1 and not _PERCENT.fullmatch(text):
        names = ", ".join(pool.name for pool in pools)
        raise _invalid(
            "memory.budget",
            f"{text[:40]!r} does not say which of {names} it is for",
            'Write a percentage, or a table such as { gpu0 = "20GiB" }.',
        )
    amounts = {pool.name: _amount("memory.budget", text, pool) for pool in pools}
    if not any(amounts.values()):
        raise _invalid("memory.budget", f"{text[:40]!r} leaves nothing for models")
    return amounts


def _for_pool(name: str, text: str, facts: MachineFacts) -> int:
    pool = facts.pool(name)
    if pool is None:
        names = ", ".join(pool.name for pool in facts.pools) or "none"
        raise _invalid(
            f"memory.budget.{name[:40]}", f"there is no such pool; this machine has {names}"
        )
    return _amount(f"memory.budget.{name}", text, pool)


def _amount(key: str, text: str, pool: PoolFacts) -> int:
    """Bytes meant by ``text`` for ``pool``."""
    share = _PERCENT.fullmatch(text)
    if share:
        # Thousandths of a percent, so that the sum stays exact.
        amount = pool.total * round(float(share[1]) * 1000) // 100_000
    else:
        try:
            amount = parse_bytes(text)
        except ValueError as error:
            raise _invalid(key, f"{error}, or a percentage such as 75%") from None
    if amount > pool.total:
        raise _invalid(
            key,
            f"{text.strip()!r} is more than {pool.name} has ({format_bytes(pool.total)})",
            "Lower it, or remove it to let the machine decide.",
        )
    return amount


def _invalid(key: str, found: str, hint: str = "") -> ProblemError:
    return ProblemError(Problem(Code.CONFIG_INVALID, f"{key}: {found}.", hint))
