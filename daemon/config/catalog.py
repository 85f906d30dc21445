"""The catalog: every model that can be asked for, merged, and which one a name means. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from daemon.config.checks import DAEMON_LOG
from daemon.config.entry import ModelEntry
from daemon.config.finds import FileId, Find, named
from daemon.config.model import Fields, Model, merge
from daemon.config.presets import FormName, Preset
from daemon.config.settings import Settings

__all__ = ["Catalog", "Fields", "Model", "matches"]

_PROVIDERS: Final = frozenset(
    {"anthropic", "ollama", "openai", "lmstudio", "lm_studio", "modelport", "ollama_chat"}
)
_MAX_NAME: Final = 256
# What the clients call their small models: these calls may go to small_model.
_FOREIGN: Final = ("claude-*", "gpt-*")
_SMALL_NAMES: Final = ("claude-*haiku*", "gpt-*-mini*", "gpt-*-nano*")


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models by name. ``models`` are those of the file; ``presets`` and those that were
    ``found`` on the machine are the others.

    All can be asked for by name. Only the caller knows which presets have their weights on the
    disk, so it decides which of ``presets`` are listed. ``undecided`` are presets whose weights
    nobody has needed to choose yet. ``finds`` tells what is known of the found ones, ``clashes``
    whose name one of them would have had.
    """

    settings: Settings
    models: Mapping[str, Model]
    presets: Mapping[str, Model]
    undecided: frozenset[str] = frozenset()
    found: Mapping[str, Model] = field(default_factory=dict)
    finds: Mapping[str, Find] = field(default_factory=dict)
    clashes: Mapping[str, str] = field(default_factory=dict)
    default_model: str | None = None
    small_model: str | None = None
    _names: Mapping[str, Model] = field(default_factory=dict, repr=False, compare=False)
    _folded: Mapping[str, Model] = field(default_factory=dict, repr=False, compare=False)
    _patterns: tuple[tuple[str, Model], ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def build(
        cls,
        settings: Settings,
        presets: Mapping[str, Preset],
        *,
        form: FormName = "gguf",
        pick: Callable[[Sequence[Model]], Model | None] = lambda forms: forms[0],
    ) -> Catalog:
        """The catalog of valid settings.

        ``form`` is what presets with both formats are rather taken in where no engine is named:
        ``mlx`` on Apple Silicon, else ``gguf``. ``pick`` decides: it gets a model in every form
        that it may have, the preferred one first, and may give it another quantisation; None
        leaves that for later.
        """
        undecided: set[str] = set()

        def made(
            name: str, entry: ModelEntry, preset: Preset | None, *, listed: bool = True
        ) -> Model:
            forms = _forms(name, entry, preset, settings, form, listed=listed)
            picked = pick(forms)
            if picked is None:
                undecided.add(name)
            return picked or forms[0]

        models = {
            name: made(name, entry, presets.get(entry.preset or ""))
            for name, entry in settings.models.items()
        }
        others = {
            name: made(name, _entry_of(name, preset), preset, listed=False)
            for name, preset in presets.items()
            if name not in models
        }
        names = dict(_all_names(models, others, presets))
        patterns = [
            (alias.casefold(), model)
            for model in models.values()
            for alias in model.aliases
            if "*" in alias
        ]
        patterns.sort(key=_specificity)
        return cls(
            settings=settings,
            models=MappingProxyType(models),
            presets=MappingProxyType(others),
            undecided=frozenset(undecided),
            default_model=settings.server.default_model,
            small_model=settings.server.small_model,
            _names=MappingProxyType(names),
            _folded=_folded(names),
            _patterns=tuple(patterns),
        )

    def kept(self, names: Iterable[str]) -> Catalog:
        """The same with models that are never unloaded for being idle, by any of their names."""
        held = {model.name for name in names if (model := self.find(name)) is not None}
        if not held:
            return self

        def kept(model: Model) -> Model:
            return replace(model, keep_alive=-1.0) if model.name in held else model

        def each(table: Mapping[str, Model]) -> Mapping[str, Model]:
            return MappingProxyType({name: kept(model) for name, model in table.items()})

        return replace(
            self,
            models=each(self.models),
            presets=each(self.presets),
            found=each(self.found),
            _names=each(self._names),
            _folded=each(self._folded),
            _patterns=tuple((pattern, kept(model)) for pattern, model in self._patterns),
        )

    def stamp(self, name: str) -> str | None:
        """Of a found model's files; None: it was not found."""
        find = self.finds.get(name)
        return find.stamp if find is not None else None

    def with_found(self, finds: Sequence[Find], held: Mapping[FileId, str]) -> Catalog:
        """The same with models that were found on the machine, in the order in which they get
        names. What the file or a preset calls so is never another one's. ``held``: files that
        models of this catalog serve already: their finds are more names for them."""
        if not finds:
            return self
        taken = {name: model.name for name, model in self._names.items()} | {DAEMON_LOG: DAEMON_LOG}
        base = merge("found", ModelEntry(), None, self.settings, "gguf", listed=False)
        got = named(finds, taken, self._patterns, held, base)
        names = dict(self._names)
        for name, owner in got.also.items():
            names[name] = self.models.get(owner) or self.presets[owner]
        for model in got.models.values():
            names |= dict.fromkeys((model.name, *model.aliases), model)
        return replace(
            self,
            found=MappingProxyType(dict(got.models)),
            finds=MappingProxyType(dict(got.finds)),
            clashes=MappingProxyType(dict(got.clashes)),
            _names=MappingProxyType(names),
            _folded=_folded(names),
        )

    def known(self, name: str) -> Model | None:
        """The model of the file, of a preset or found that is called just this."""
        return self.models.get(name) or self.presets.get(name) or self.found.get(name)

    def resolve(self, name: str, route: str = "", default: str = "") -> Model | None:
        """The model that ``name`` means to who asks for ``route``, or None. ``default``: of a key,
        in place of ``default_model``.

        In this order: a name or an alias as it is, without regard to case, without the provider
        in front (``anthropic/``) or ``:latest`` behind; the most specific pattern; then
        ``default_for`` this route, ``small_model`` for the names of clients' small models, and
        ``default_model``.
        """
        if len(name) > _MAX_NAME:
            return None
        meant = self.meant(name)
        if meant is not None:
            return meant
        by_path = self.settings.server.default_for.get(route)  # type: ignore[call-overload]
        if by_path is not None:
            return self.find(by_path)
        own = self.find(default) if default else None
        return (self.small if means_small(name) else None) or own or self.default

    def meant(self, name: str) -> Model | None:
        """As :meth:`resolve`, but for operators: a name that is none of ours is a mistake, and
        nothing stands in for it."""
        if len(name) > _MAX_NAME:
            return None
        forms = list(_forgiven(name))
        for known in (self.find(form) for form in forms):
            if known is not None:
                return known
        for form in forms:
            for pattern, model in self._patterns:
                if matches(pattern, form.casefold()):
                    return model
        return None

    def find(self, name: str) -> Model | None:
        """The model with exactly this name or alias, case aside; no patterns, no default."""
        return self._names.get(name) or self._folded.get(name.casefold())

    @property
    def default(self) -> Model | None:
        """What answers requests that name no model of ours."""
        return self.find(self.default_model) if self.default_model else None

    @property
    def small(self) -> Model | None:
        """What answers titles, tags, classifiers and autocompletion."""
        return self.find(self.small_model) if self.small_model else None

    def nearest(self, name: str) -> list[str]:
        """Up to three names that ``name`` may have been meant to be, the likeliest first."""
        known: dict[str, str] = {}
        for other in (*self.models, *self._names):
            known.setdefault(other.casefold(), other)
        wanted = next(iter(reversed(list(_forgiven(name[:_MAX_NAME])))), "").casefold()
        import difflib  # read when somebody has mistyped

        found = difflib.get_close_matches(wanted, list(known), n=3, cutoff=0.5)
        return [known[key] for key in found]


def _folded(names: Mapping[str, Model]) -> Mapping[str, Model]:
    """By names without regard to case; who comes first has it."""
    folded: dict[str, Model] = {}
    for name, model in names.items():
        folded.setdefault(name.casefold(), model)
    return MappingProxyType(folded)


def foreign(name: str) -> bool:
    """Whether this is what a hosted service calls its models: clients ask for these unasked."""
    plain = [form.casefold() for form in _forgiven(name[:_MAX_NAME])][-1]
    return any(matches(pattern, plain) for pattern in _FOREIGN)


def means_small(name: str) -> bool:
    """Whether a client calls its small model by this name: for titles, tags, classifiers."""
    if len(name) > _MAX_NAME:
        return False
    return any(matches(p, form.casefold()) for form in _forgiven(name) for p in _SMALL_NAMES)


def matches(pattern: str, name: str) -> bool:
    """Whether ``name`` matches ``pattern``, in which ``*`` stands for any text. Linear in time."""
    first, *middle = pattern.split("*")
    if not middle:
        return name == pattern
    *middle, last = middle
    if len(name) < len(first) + len(last):
        return False
    if not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _specificity(item: tuple[str, Model]) -> tuple[int, int]:
    pattern, _ = item
    return (-len(pattern.replace("*", "")), pattern.count("*"))


def _forgiven(name: str) -> Iterator[str]:
    """The name as asked for, then without what clients put around it."""
    name = name.strip()
    while True:
        yield name
        if name.casefold().endswith(":latest"):
            yield name[: -len(":latest")]
        provider, slash, rest = name.partition("/")
        if not slash or provider.casefold() not in _PROVIDERS:
            return
        name = rest


def _all_names(
    models: Mapping[str, Model], others: Mapping[str, Model], presets: Mapping[str, Preset]
) -> Iterable[tuple[str, Model]]:
    """Every plain name and its model; the file's come before the presets'."""
    names: dict[str, Model] = dict(models)
    taken = {name.casefold() for name in names}

    def add(alias: str, model: Model) -> None:
        if "*" not in alias and alias.casefold() not in taken:
            taken.add(alias.casefold())
            names[alias] = model

    for model in models.values():
        for alias in model.aliases:
            add(alias, model)
    for name, other in others.items():
        add(name, other)
    for name, preset in presets.items():
        # The other names of a preset follow its name, also where an entry has replaced it.
        holder = names.get(name)
        for alias in preset.aliases if holder is not None else ():
            assert holder is not None
            add(alias, holder)
    return names.items()


def _forms(
    name: str,
    entry: ModelEntry,
    preset: Preset | None,
    settings: Settings,
    form: FormName,
    *,
    listed: bool,
) -> list[Model]:
    """The model in every form that it may have, the preferred one first."""
    other: FormName = "mlx" if form == "gguf" else "gguf"
    both = preset is not None and preset.gguf is not None and preset.mlx is not None
    forms = [
        merge(name, entry, preset, settings, wanted, listed=listed)
        for wanted in ((form, other) if both else (form,))
    ]
    return [m for i, m in enumerate(forms) if m.form not in {f.form for f in forms[:i]}]


def _entry_of(name: str, preset: Preset) -> ModelEntry:
    """What the file would say to have just this preset."""
    return ModelEntry(preset=name, aliases=preset.aliases)
