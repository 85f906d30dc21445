"""Which weights of a preset a machine gets: their form and quantisation. Pure.

What is on the disk is used, and nothing is fetched beside it. Else it is the form that runs here
best, in the quantisation and context of which least is lost (``planning.loss``) among those that
fit the whole budget: what happens to be loaded now is no reason to fetch something smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from daemon.config.model import Choice, Model
from daemon.core.budget import fits
from daemon.core.messages import Bytes
from daemon.core.problems import Code, Problem
from daemon.core.units import format_amounts, format_bytes
from daemon.weights.quants import bits, named_in, plain

if TYPE_CHECKING:
    from daemon.planning import Option  # what is on the disk needs no plan

FEW_BITS = 3.5  # of a weight; the guides' models are useful with 4, and break below 3

_FORMS = {"gguf": "GGUF", "mlx": "MLX"}


@dataclass(frozen=True, slots=True)
class Offer:
    """One quantisation of one form. ``options``: the ways to run it, none where nothing is known
    of them; ``engine``: what would run it, "" where none that is here can."""

    model: Model
    options: tuple[Option, ...] = ()
    here: bool = False
    engine: str = ""

    @property
    def quant(self) -> str:
        """Its quantisation, as people call it; "" where its names tell none."""
        model = self.model
        return plain(model.quant or "") or named_in(model.file or "") or named_in(model.hf or "")

    def best(self, budget: Bytes) -> Option | None:
        """The way to run it of which least is lost, of those that fit."""
        fitting = [option for option in self.options if fits(option.need, budget)]
        return min(fitting, key=_order, default=None)

    @property
    def least(self) -> int:
        """Bytes of the way that takes fewest."""
        return min((sum(option.need.values()) for option in self.options), default=0)


def choose(offers: Sequence[Offer], budget: Bytes, kept: str | None = None) -> Model:
    """The model with the weights that it gets, and why (``Model.choice``).

    ``offers``: the form to prefer first, at least one. ``kept``: the ``hf`` that was chosen before;
    while it is on the disk it stays.
    """
    here = [offer for offer in offers if offer.here]
    for offer in here:
        if offer.model.hf == kept:
            return _taken(offer, offer.best(budget), offers, budget)
    able = [offer for offer in here or offers if offer.engine] or here or list(offers)
    for form in dict.fromkeys(offer.model.form for offer in able):
        found = [
            (way, offer)
            for offer in able
            if offer.model.form == form and (way := offer.best(budget)) is not None
        ]
        if found:
            way, offer = min(found, key=lambda pair: _order(pair[0]))
            return _taken(offer, way, offers, budget)
    unknown = next((offer for offer in able if not offer.options), None)
    if unknown is not None:
        return _taken(unknown, None, offers, budget) if unknown.here else unknown.model
    smallest = min(able, key=lambda offer: offer.least)
    if here:  # it may be loaded all the same; the scheduler says what it lacks
        return _taken(smallest, None, offers, budget)
    problem = _refusal(smallest, able, budget)
    return replace(smallest.model, choice=Choice(problem.message, problem))


def alternative(model: Model, others: Iterable[Model]) -> str | None:
    """The preset to take in place of one that does not fit: of the same kind, with tools where that
    has them and images where that reads them; the largest that fits."""
    found = [
        other
        for other in others
        if other.name != model.name
        and other.kind == model.kind
        and other.choice is not None
        and other.choice.refusal is None
        and (other.tools is not False or model.tools is False)
        and (other.mmproj is not None or model.mmproj is None)
    ]
    best = max(found, key=lambda other: (other.size or 0, other.name), default=None)
    return best.name if best is not None else None


def refusal(model: Model, others: Iterable[Model]) -> Problem | None:
    """Why its weights are not fetched, and what to do instead; None: they may be."""
    problem = model.choice.refusal if model.choice is not None else None
    if problem is None:
        return None
    name = alternative(model, others)
    instead = f"{name} fits: ctl load {name}." if name else "No preset of its kind fits."
    hint = f"{instead} Or try it all the same: ctl load {model.name} --fit ignore"
    return replace(problem, hint=hint, facts={**problem.facts, "alternative": name})


def _order(option: Option) -> tuple[float, int]:
    return option.loss, sum(option.need.values())


def _taken(offer: Offer, way: Option | None, offers: Sequence[Offer], budget: Bytes) -> Model:
    """The model of an offer, with the sentence that says why."""
    others = len({(each.model.form, each.quant) for each in offers}) - 1
    form = _FORMS.get(offer.model.form or "", "")
    runs = f"{form} for {offer.engine}" if form and offer.engine else form
    size = format_bytes(offer.model.size) if offer.model.size else ""
    what = " ".join(filter(None, (offer.quant, f"({', '.join(filter(None, (size, runs)))})")))
    if offer.here:
        text = f"{what}: it is on this machine"
    else:
        context = f" with a context of {way.context}" if way is not None and way.context else ""
        fit = f"fits {_room(offer, budget)}{context}"
        text = f"{what}: {f'of {others + 1} the best that {fit}' if others else f'it {fit}'}"
    if offer.options and not offer.engine:
        text += "; no engine that is here runs it"
    known = bits(offer.quant)
    if known is not None and known < FEW_BITS:
        text += f"; below {FEW_BITS:g} bits per weight it makes more mistakes"
    return replace(offer.model, choice=Choice(text))


def _room(offer: Offer, budget: Bytes) -> str:
    pools = {pool for option in offer.options for pool in option.need}
    return format_amounts({pool: budget.get(pool, 0) for pool in sorted(pools)})


def _refusal(smallest: Offer, offers: Sequence[Offer], budget: Bytes) -> Problem:
    model = smallest.model
    way = min(smallest.options, key=lambda option: sum(option.need.values()))
    needs = format_amounts(way.need)
    context = f" with a context of {way.context}" if way.context else ""
    size = f" ({format_bytes(model.size)})" if model.size else ""
    which = f"{smallest.quant or 'it'}{size}"
    if len(offers) > 1:
        which = f"even its smallest quantisation, {which},"
    text = (
        f"{model.name} does not fit this machine: {which} needs {needs}{context}, "
        f"and there is room for {_room(smallest, budget)}."
    )
    facts: dict[str, object] = {
        "needed": dict(way.need),
        "budget": {pool: budget.get(pool, 0) for pool in way.need},
        "smallest": smallest.quant,
        "size": model.size,
    }
    return Problem(Code.MODEL_TOO_LARGE, text, facts=facts)
