"""Settling which weights presets get on this machine: the shell around ``daemon.choosing``.

Reads files, and finds engines: for a thread. What weighs is imported only when something is to be
weighed: a daemon without models does without.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from daemon.config.catalog import Catalog
from daemon.config.model import Model
from daemon.config.presets import FormName
from daemon.core.problems import ProblemError
from daemon.engines.base import Installed
from daemon.engines.registry import Registry
from daemon.weights.quants import bits, plain

if TYPE_CHECKING:
    from daemon.backends.sizing import Sized
    from daemon.choosing import Offer
    from daemon.planning import Option


class Found(Registry):
    """A registry for one reading: each engine is looked for once."""

    def find(self, name: str) -> Installed:
        known = self._known.get(name)
        if known is None:
            try:
                known = super().find(name)
            except ProblemError as error:
                known = error
            self._known[name] = known
        if isinstance(known, ProblemError):
            raise known
        return known

    @functools.cached_property
    def _known(self) -> dict[str, Installed | ProblemError]:
        return {}


class Settler:
    """Settles models one by one. ``size``: what one would take (``Sizer.size``); ``present``:
    whether a model's weights are on this disk; ``held``: the quantisations of a repository that
    are, and their bytes; ``kept``: by model the ``hf`` that was chosen, remembered from one reading
    to the next."""

    def __init__(
        self,
        size: Callable[[Model], Sized],
        registry: Registry,
        budget: Mapping[str, int],
        present: Callable[[Model], bool],
        kept: MutableMapping[str, str],
        held: Callable[[str], Mapping[str, int]] = lambda repo: {},
    ) -> None:
        self._size = size
        self._registry = registry
        self._budget = budget
        self._present = present
        self._kept = kept
        self._held = held

    @property
    def form(self) -> FormName:
        """What presets with both formats are taken in, where nothing else decides."""
        return "mlx" if self._registry.platform.apple_silicon else "gguf"

    def needed(
        self, forms: Sequence[Model], before: Catalog | None, asked: Set[str]
    ) -> Model | None:
        """As :meth:`pick`, for the models of the file, presets that somebody has ``asked`` for, and
        those of which something is here; None for the others. What was chosen ``before`` is not
        weighed anew, unless its weights are not here, and others are."""
        name = forms[0].name
        here = any(map(self._present, self._wanted(forms)))
        old = before.known(name) if before is not None and name not in before.undecided else None
        if old is not None and (not here or self._present(old)):
            form = next((form for form in forms if form.form == old.form), forms[0])
            return replace(form, hf=old.hf, file=old.file, size=old.size, choice=old.choice)
        return self.pick(forms) if here or forms[0].listed or name in asked else None

    def pick(self, forms: Sequence[Model]) -> Model:
        """The model in one of its forms, with one of its quantisations. ``forms``: the one to
        prefer first."""
        if not all(_of_a_preset(form) for form in forms):
            return forms[0]
        from daemon.choosing import choose

        offers = self._offers(list(self._wanted(forms)))
        found = choose(offers, self._budget, self._kept.get(forms[0].name))
        if found.hf is not None:
            self._kept[found.name] = found.hf
        return found

    def _wanted(self, forms: Sequence[Model]) -> Iterator[Model]:
        for form in forms:
            yield from (*_quantised(form), *self._others(form))

    def _others(self, model: Model) -> Iterator[Model]:
        """What the disk has of its repository that its preset does not offer."""
        known = {plain(name) for name in (*model.quants, model.quant or "")}
        held = self._held(model.repo or "") if model.quants else {}
        for name, size in held.items():
            if plain(name) not in known:
                yield replace(model, hf=f"{model.repo}:{name}", file=None, size=size)

    def _offers(self, wanted: Sequence[Model]) -> list[Offer]:
        from daemon.choosing import Offer

        here = [each for each in wanted if self._present(each)]
        if len(here) == 1:  # nothing is to be weighed, nothing to be read
            engine = here[0].engine or ""
            return [Offer(here[0], here=True, engine=engine)]
        return [self._offer(each, here=bool(here)) for each in here or wanted]

    def _offer(self, model: Model, *, here: bool) -> Offer:
        from daemon.choosing import Offer

        try:
            sized = self._size(model)
            ways = self._ways(sized)
        except ProblemError:
            return Offer(model, here=here)
        engine = "" if sized.missing or self._unable(sized) else sized.site.engine
        return Offer(model, ways, here, engine)

    def _ways(self, sized: Sized) -> tuple[Option, ...]:
        from daemon.planning import loss, on_each_gpu, options

        model = sized.model
        fixed = model.ctx if model.fit == "refuse" else None  # it would not be shrunk
        places = on_each_gpu(sized, tuple(self._budget))
        ways = options(places, ctx=fixed, caches=("f16",))
        named, real = bits(sized.quant), _bits(model)
        if named is None or real is None:
            return ways
        worse = loss(real, 0, 0, "f16") - loss(named, 0, 0, "f16")
        return tuple(replace(way, loss=way.loss + worse) for way in ways)

    def _unable(self, sized: Sized) -> bool:
        """Whether the engine that is here is too old for it, or lacks a flag that it needs."""
        name, model = sized.site.engine, sized.model
        installed = self._registry.find(name)
        flags = {arg for arg in model.args_for(name) if arg.startswith("-") and arg[1:2].isalpha()}
        flags |= {arg for arg in model.args_for(name) if arg.startswith("--")}
        lacks = bool(installed.flags) and not flags <= installed.flags
        return lacks or self._registry.unfit(installed, model.min_engine, "") is not None


def _bits(model: Model) -> float | None:
    """Bits per weight by the sizes of its files: names tell the smallest part of a mixture."""
    if not model.quants or not model.size:
        return None
    name, size = next(iter(model.quants.items()))
    best = bits(name)
    return best * model.size / size if best else None


def _of_a_preset(model: Model) -> bool:
    """Whether its weights are those that a preset names: their size is known, and nothing else of
    the user's runs them."""
    written = model.path is not None or model.repo is None or model.size is None
    return not written and model.preset is not None and "." not in (model.engine or "")


def _quantised(model: Model) -> Iterator[Model]:
    """The model in each quantisation that its preset offers, best first."""
    named = {name.upper() for name in model.quants}
    if not named or (model.quant or "").upper() not in named:
        yield model
    for name, size in model.quants.items():
        yield replace(model, hf=f"{model.repo}:{name}", file=None, size=size)
