"""Which model is meant by a name, whether it serves what is asked of it, and who may stand in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.access.principals import LOCAL, Principal
from daemon.backends.prepare import Prepared
from daemon.config.catalog import Catalog, foreign, matches, means_small
from daemon.config.finds import Engines, Find
from daemon.config.model import Model
from daemon.core.messages import ModelSpec
from daemon.core.problems import Code, Problem
from daemon.dialects.manner import Manner, reachable
from daemon.ports import Edits, ModelCard, Resolved, Route

ROUTE_WORDS = {
    Route.MESSAGES.value: "the Anthropic messages API",
    Route.COUNT_TOKENS.value: "Anthropic's token counting",
    Route.RESPONSES.value: "the OpenAI responses API",
    Route.AUDIO.value: "audio",
    Route.IMAGES.value: "images",
    Route.TOKENS.value: "llama-server's tokenizer",
}
_REMEMBERED = 256
_Asked = tuple[str, str, bool, bool, tuple[str, ...], str]
_TALKING = frozenset({"chat", "vision"})  # kinds of models


@dataclass(frozen=True, slots=True)
class Names:
    """The models that can be named. ``prepared`` holds every model of the file, presets that are
    present, and those found on the machine that somebody has named; ``engines`` says what would run
    the other found ones."""

    catalog: Catalog
    prepared: Mapping[str, Prepared]
    created: int  # Unix seconds, for GET /v1/models
    engines: Engines = field(default_factory=dict, kw_only=True)
    # Asked for each request, and the same for as long as these names are.
    _resolved: dict[_Asked, Resolved] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def find(self, name: str, route: str = "", who: Principal = LOCAL) -> Prepared | Problem:
        """The model that ``name`` (exact, alias, pattern, default) means to ``who``, who asks for
        ``route``; "" is none named. What a key may not use does not exist for it."""
        model = self.catalog.resolve(name, route, who.default_model)
        if not name and model is None:
            hint = "Name one in `model`, or set server.default_model."
            return Problem(Code.MODEL_MISSING, "The request names no model.", hint)
        if model is not None and not sees(who, model):
            return self.unknown(name, who)
        item = self.prepared.get(model.name) if model is not None else None
        if item is not None:
            return item
        if model is not None and model.name in self.catalog.found:
            text = f"{model.name} was found on this machine, and is being looked at."
            return Problem(Code.MODEL_UNAVAILABLE, text, "Ask again.", 1.0)
        if model is not None:  # a preset whose weights are not here
            return Problem(
                Code.NOT_PULLED,
                f"The weights of {model.name} are not on this machine.",
                f"Get them with: ctl pull {model.name}",
            )
        return self.unknown(name, who)

    def unnamed(self, name: str) -> Prepared:
        """A found model that nobody has named yet, from its header alone."""
        model, find = self.catalog.found[name], self.catalog.finds[name]
        problem = None
        engine = self.engines.get((find.facts.form, find.facts.kind)) if find.facts else None
        if find.trouble:
            text = f"{model.name} cannot be served: {find.trouble}."
            problem = Problem(Code.MODEL_UNAVAILABLE, text)
        elif isinstance(engine, Problem):
            problem = engine
        return Prepared(
            model,
            engine if isinstance(engine, str) else None,
            ModelSpec(model.name, ()),
            kind=model.kind or find.kind,
            path=model.path,
            mmproj=find.mmproj,
            problem=problem,
        )

    def unknown(self, name: str, who: Principal = LOCAL) -> Problem:
        """No such model, with the nearest names."""
        near = [one for one in self.catalog.nearest(name) if self._named_to(who, one)]
        mine = {one: item.model for one, item in self.prepared.items()}
        mine |= {one: m for one, m in self.catalog.found.items() if self.runner(one) is not None}
        have = sorted(one for one, model in mine.items() if sees(who, model))
        if not have and not near:
            hint = "No model is configured yet. Add one: ctl add PATH or ctl add hf:OWNER/REPO"
        elif near and not foreign(name):
            hint = f"Did you mean {', '.join(near)}?"
        else:
            hint = f"There are: {', '.join(have[:10])}{' …' if len(have) > 10 else ''}"
        if foreign(name):  # a client's own choice, which no spelling would mend
            hint += " (server.default_model says who answers to such names)"
        return Problem(
            Code.MODEL_NOT_FOUND,
            f"There is no model named {name[:200]!r}.",
            hint,
            facts={"nearest": near},
        )

    def _named_to(self, who: Principal, name: str) -> bool:
        model = self.catalog.find(name)
        return model is None or sees(who, model)

    def resolve(
        self,
        name: str,
        route: str,
        small: bool = False,
        movable: bool = True,
        who: Principal = LOCAL,
    ) -> Resolved | Problem:
        """See ``supervisor.Stock``."""
        key = (name, route, small, movable, who.models, who.default_model)
        known = self._resolved.get(key)
        if known is not None:
            return known
        found = self._resolve(name, route, small, movable, who)
        if isinstance(found, Resolved):
            if len(self._resolved) >= _REMEMBERED:  # patterns match any number of names
                self._resolved.clear()
            self._resolved[key] = found
        return found

    def _resolve(
        self, name: str, route: str, small: bool, movable: bool, who: Principal
    ) -> Resolved | Problem:
        item = self.find(name, route, who)
        if isinstance(item, Problem):
            return item
        if item.problem is not None:
            return item.problem
        if route != Route.UPSTREAM.value and route not in reachable(item.routes):
            return self._unsupported(item, route)
        way = self.catalog.settings.server.small_calls
        stranger = self.catalog.meant(name) is None
        guessed = bool(name) and stranger and not foreign(name)
        small = way != "own" and (
            small or route == Route.INFILL.value or (means_small(name) and stranger)
        )
        if not small or not movable:
            return Resolved(item.model.name, small, guessed=guessed)
        if way == "small_model":
            chosen = self._serving(self.catalog.small, route)
            if chosen is not None and not sees(who, chosen.model):
                chosen = None
            served = chosen if chosen is not None else item
            return Resolved(served.model.name, small, guessed=guessed)
        return Resolved(item.model.name, small, self._stand_ins(item, route, who), guessed)

    def edits(self, model: str) -> Edits | None:
        """See ``supervisor.Stock``."""
        item = self.prepared.get(model)
        return item.edits if item is not None else None

    def manner(self, model: str) -> Manner | None:
        """See ``supervisor.Stock``."""
        item = self.prepared.get(model)
        return item.manner if item is not None else None

    def _stand_ins(self, item: Prepared, route: str, who: Principal) -> tuple[str, ...]:
        """Who else may serve a small call, the likeliest first: the small model for another, the
        default one for it, then whoever is loaded of those that have a conversation at all."""
        small, default = self.catalog.small, self.catalog.default
        first = [default, small] if small is not None and item.model.name == small.name else [small]
        found = [one for model in first if (one := self._serving(model, route)) is not None]
        if route != Route.INFILL.value:  # there a model must have learnt it
            found += [one for _, one in sorted(self.prepared.items()) if one.kind in _TALKING]
        names = dict.fromkeys(
            one.model.name
            for one in found
            if one is not item and _serves(one, route) and sees(who, one.model)
        )
        return tuple(names)

    def _serving(self, model: Model | None, route: str) -> Prepared | None:
        item = self.prepared.get(model.name) if model is not None else None
        return item if item is not None and _serves(item, route) else None

    @staticmethod
    def _unsupported(item: Prepared, route: str) -> Problem:
        what = ROUTE_WORDS.get(route, route)
        speaks = ", ".join(sorted(reachable(item.routes))) or "nothing"
        return Problem(
            Code.UNSUPPORTED_DIALECT,
            f"{item.model.name} ({item.engine_name}, {item.kind}) does not serve {what}.",
            f"It serves: {speaks}.",
            facts={"routes": sorted(reachable(item.routes))},
        )

    # ------------------------------------------------------------ showing

    def cards(self, states: Mapping[str, str], who: Principal = LOCAL) -> list[ModelCard]:
        """Of every model that programs are told of: of the found ones those that can be served,
        unless ``discovery.listed`` is off."""
        found = self.catalog.found if self.catalog.settings.discovery.listed else {}
        cards: dict[str, ModelCard] = {}
        for name, item in self.prepared.items():
            told = name not in self.catalog.found or (name in found and item.problem is None)
            if told and sees(who, item.model):
                cards[name] = self._card(item, states)
        for name, model in found.items():
            if name in self.prepared or not sees(who, model):
                continue
            if self.runner(name) is not None:
                cards[name] = self._found_card(model, self.catalog.finds[name])
        return [card for _, card in sorted(cards.items())]

    def runner(self, name: str) -> str | None:
        """The engine that would serve this found model; None: it cannot be served, or nobody has
        looked at it yet."""
        find = self.catalog.finds[name]
        if find.facts is None or find.trouble:
            return None
        engine = self.engines.get((find.facts.form, find.facts.kind))
        return engine if isinstance(engine, str) else None

    def card(
        self, name: str, states: Mapping[str, str], route: str = "", who: Principal = LOCAL
    ) -> ModelCard | Problem:
        model = self.catalog.resolve(name, route, who.default_model)
        if model is not None and model.name not in self.prepared and sees(who, model):
            find = self.catalog.finds.get(model.name)
            if find is not None:
                return self._found_card(model, find)
        item = self.find(name, route, who)
        return item if isinstance(item, Problem) else self._card(item, states)

    def _found_card(self, model: Model, find: Find) -> ModelCard:
        """Of one that nobody has named yet, from its header alone."""
        facts = find.facts
        kind: str = model.kind or find.kind
        told = (
            {}
            if facts is None
            else {
                "slots": model.slots,
                "size": facts.size,
                "format": facts.format,
                "architecture": facts.architecture,
                "quantisation": facts.quantisation,
                "n_ctx_train": facts.context,
            }
        )
        sees_images = facts is not None and "vision" in facts.abilities
        context = min(facts.context, model.ctx or model.ctx_limit) if facts is not None else 0
        return ModelCard(
            id=model.name,
            aliases=model.aliases,
            created=self.created,
            context=context or None,
            engine=self.runner(model.name),
            kind="vision" if kind == "chat" and sees_images else kind,
            present=not find.trouble,
            facts={name: value for name, value in told.items() if value not in ("", 0)},
        )

    def _card(self, item: Prepared, states: Mapping[str, str]) -> ModelCard:
        name = item.model.name
        return ModelCard(
            id=name,
            aliases=tuple(a for a in item.model.aliases if "*" not in a),
            created=self.created,
            context=item.best.ctx if item.best else item.trained_context,
            state=states.get(name, "stopped"),
            engine=item.engine_name,
            max_output=item.model.max_output,
            kind=item.shown_kind,
            present=item.pulled,
            facts=_facts(item),
        )


def sees(who: Principal, model: Model) -> bool:
    """May ``who`` use this model, by its name or one of its aliases?"""
    if not who.models:
        return True
    names = [name.casefold() for name in (model.name, *model.aliases)]
    return any(matches(pattern.casefold(), name) for pattern in who.models for name in names)


def _serves(item: Prepared, route: str) -> bool:
    return item.problem is None and route in reachable(item.routes)


def _facts(item: Prepared) -> dict[str, object]:
    """What programs ask of a model beyond its name, where it is known: size in bytes, …"""
    weights = item.weights
    found: dict[str, object] = {"slots": item.model.slots}
    if weights is not None:
        found |= {
            "size": weights.disk_bytes,
            "format": weights.format,
            "architecture": weights.architecture,
            "quantisation": weights.quantisation,
            "n_ctx_train": weights.n_ctx_train,
        }
    elif item.model.size is not None:
        found["size"] = item.model.size
    return {name: value for name, value in found.items() if value not in ("", 0)}
