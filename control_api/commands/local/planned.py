"""A plan as it was decided: each model's quantisation, context, cache and place, and what of that
the configuration does not say yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from control_api.commands.local.sizes import Budget, Here
from control_api.commands.local.wishes import Wish

if TYPE_CHECKING:
    from daemon.backends.sizing import Sized, Sizer
    from daemon.planning import Option, Wanted


@dataclass(frozen=True, slots=True)
class Row:
    """One model of the plan as it was decided. ``spare``: bytes for prompts of before;
    ``need``: with them."""

    wish: Wish
    sized: Sized
    option: Option
    spare: int
    need: Mapping[str, int]
    moved: bool  # it lies on another GPU than it would by itself

    @property
    def model(self) -> str:
        return self.wish.model.name

    @property
    def requantised(self) -> bool:
        """Whether it is not the quantisation that is configured."""
        return self.sized.model.hf != self.wish.model.hf

    @property
    def pull(self) -> str:
        """The command that brings its weights; "" where they are here."""
        if self.option.here:
            return ""
        return self.wish.model.install or f"ctl pull {self.model}"


@dataclass(frozen=True, slots=True)
class Decided:
    """A plan with everything that is printed of it."""

    rows: tuple[Row, ...]
    left_out: Mapping[str, Mapping[str, int]]  # what the smallest way lacks
    budget: Budget

    @property
    def fitting(self) -> list[str]:
        """What was asked for and has a place, as it was asked."""
        return [row.wish.text for row in self.rows]

    @property
    def need(self) -> dict[str, int]:
        from daemon.core.budget import total

        return total(row.need for row in self.rows)


def decide(wishes: Sequence[Wish], here: Here, budget: Budget) -> Decided:
    """The best that fits together. Raises ``RefusedError``, ``ProblemError``."""
    from daemon.planning import best, prompt_caches, running

    sizer = here.sizer()
    choices = {wish.model.name: offered(wish, here, sizer) for wish in wishes}

    def ask(caches: Sequence[str]) -> list[Wanted]:
        return [_wanted(wish, choices[wish.model.name], caches) for wish in wishes]

    found = best(ask, budget.amounts)
    kept = [wish for wish in wishes if wish.model.name in found.chosen]
    pairs = []
    for wish in kept:
        option = found.chosen[wish.model.name]
        pairs.append((_meant(choices[wish.model.name], option), option))
    left = {p: n - found.need.get(p, 0) for p, n in budget.amounts.items()}
    rows = []
    for wish, (sized, option), spare in zip(kept, pairs, prompt_caches(pairs, left), strict=True):
        way = replace(running(sized, option.context, option.cache), prompt_cache=spare)
        usual = choices[wish.model.name][0].site.pools
        moved = option.pools != usual and len(option.pools) == 1
        rows.append(Row(wish, sized, option, spare, sized.need(way), moved))
    return Decided(tuple(rows), found.left_out, budget)


def offered(wish: Wish, here: Here, sizer: Sizer) -> list[Sized]:
    """The quantisations that it may have, on every GPU; the configured one comes first."""
    from daemon.engines.llama import without_cache_settings
    from daemon.planning import on_each_gpu

    model = wish.model
    entry = here.settings.models.get(model.name)
    own = len(entry.args) if entry is not None else 0
    if own:  # cache types and prompt cache of its own entry are what is planned
        fixed, mine = model.args[:-own], model.args[-own:]
        model = replace(model, args=(*fixed, *without_cache_settings(mine)))
    if wish.quant is not None:
        found = [sizer.quantised(model, wish.quant)]
    else:
        found = [sizer.size(model), *sizer.others(model)]
    pools = tuple(here.budget.amounts)
    return [each for sized in found for each in on_each_gpu(sized, pools)]


def _wanted(wish: Wish, offered: Sequence[Sized], caches: Sequence[str]) -> Wanted:
    from daemon.planning import Wanted, options

    return Wanted(wish.model.name, options(offered, ctx=wish.ctx, caches=caches))


def _meant(offered: Sequence[Sized], option: Option) -> Sized:
    """What an option was made of."""
    return next(
        each for each in offered if each.quant == option.quant and each.site.pools == option.pools
    )


# ------------------------------------------------------------ the configuration


def entries(decided: Decided, here: Here) -> dict[str, dict[str, Any]]:
    """What the plan changes in the configuration: by model, keys and values; None removes one."""
    changes = {row.model: _entry(row, here) for row in decided.rows}
    return {name: entry for name, entry in changes.items() if entry}


def _entry(row: Row, here: Here) -> dict[str, Any]:
    """The keys of one model that the plan decides and that are not so already."""
    model, entry = row.wish.model, here.settings.models.get(row.model)
    wanted: dict[str, Any] = {}
    if row.option.context and row.sized.weights is not None:
        wanted["ctx"] = row.option.context
    if row.requantised:
        wanted |= {"hf": row.sized.model.hf, "file": None}
        # An entry with a repository of its own takes no companions from its preset.
        wanted |= {k: v for k in ("mmproj", "draft") if (v := getattr(model, k)) is not None}
    if row.moved:
        (wanted["pool"],) = row.option.pools
    args = _args(row, entry.args if entry is not None else ())
    if args is not None:
        wanted["args"] = args or None
    if entry is None:
        fresh = {"preset": model.preset, **wanted}
        return {key: value for key, value in fresh.items() if value is not None}
    have = {key: getattr(entry, key) for key in wanted} | {"args": list(entry.args) or None}
    return {key: value for key, value in wanted.items() if have[key] != value}


def _args(row: Row, own: Sequence[str]) -> list[str] | None:
    """The entry's args with the cache types and the prompt cache of the plan; None: as they are."""
    from daemon.engines.llama import without_cache_settings
    from daemon.engines.pricing import LLAMA, sets_prompt_cache
    from daemon.planning import written_cache

    sized = row.sized
    if sized.weights is None or sized.site.engine not in LLAMA:
        return None
    args = list(without_cache_settings(own))
    if row.option.cache != "f16" and written_cache(sized) is None:
        args += ["-ctk", row.option.cache, "-ctv", row.option.cache]
    if sized.kind not in ("embedding", "rerank") and not sets_prompt_cache(sized.site.args):
        # Sized by the daemon it would be a part of what the others need.
        args += ["--cache-ram", str(row.spare >> 20)]
    return args
