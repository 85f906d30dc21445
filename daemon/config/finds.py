"""Models that were found on this machine, as values: what the catalog is given of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from pydantic import JsonValue

from daemon.config.model import Fields, Model
from daemon.config.types import Kind
from daemon.core.problems import Problem

PlaceName = Literal["folder", "huggingface", "lmstudio", "llama.cpp", "ollama"]
PLACES: Final[tuple[PlaceName, ...]] = ("folder", "huggingface", "lmstudio", "llama.cpp", "ollama")
"""In this order they are asked for a name that several have."""

FileId = tuple[int, int]  # device and inode: the same file by whatever name
Engines = Mapping[tuple[str, str], str | Problem]
"""By form and kind of weights the engine that would run them, or why none would."""


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What the header and the template of a found model say. ``size``: bytes; ``context``: tokens;
    0 and "" where they say nothing. ``problem``: why it cannot be served."""

    format: str = ""  # gguf | safetensors
    architecture: str = ""
    kind: Kind = "chat"
    quantisation: str = ""
    size: int = 0
    context: int = 0
    parameters: int = 0
    template: bool = False
    abilities: tuple[str, ...] = ()
    problem: str = ""
    part: bool = False  # sound, but no model by itself

    @property
    def form(self) -> str:
        """As engines choose by it: ``gguf``, ``mlx`` or ``safetensors``."""
        if self.format == "safetensors" and "bit" in self.quantisation:
            return "mlx"
        return self.format


@dataclass(frozen=True, slots=True)
class Find:
    """One found model.

    ``names`` are full ones, the first is what it is called where nobody has that name already.
    ``shorts`` count only where no other found model has them. ``path`` is what an engine is given;
    ``stamp`` changes when a file of it does. ``file`` is that of its first file.
    """

    place: PlaceName
    names: tuple[str, ...]
    path: Path
    files: tuple[Path, ...]
    size: int
    stamp: str
    file: FileId
    shorts: tuple[str, ...] = ()
    mmproj: Path | None = None
    adapters: tuple[Path, ...] = ()
    params: Mapping[str, JsonValue] = field(default_factory=dict)
    ctx: int | None = None
    built_in: str = ""  # llama.cpp's name of its template, where the file may have none
    problem: str = ""  # seen without reading it
    facts: HeaderFacts | None = None  # None: not read yet

    @property
    def trouble(self) -> str:
        """Why it cannot be served; "" as far as is known it can."""
        return self.problem or (self.facts.problem if self.facts is not None else "")

    @property
    def template(self) -> str:
        """The built-in template that it needs: its own file has none."""
        bare = self.facts is not None and not self.facts.template
        return self.built_in if bare and self.kind in ("chat", "completion") else ""

    @property
    def kind(self) -> Kind:
        """What it answers, as far as is known."""
        return self.facts.kind if self.facts is not None else "chat"


@dataclass(frozen=True, slots=True)
class Named:
    """Found models under the names that they got. ``clashes``: whose name a find would have had;
    ``also``: more names of models that are configured, whose files these are."""

    models: Mapping[str, Model] = field(default_factory=dict)
    finds: Mapping[str, Find] = field(default_factory=dict)
    clashes: Mapping[str, str] = field(default_factory=dict)
    also: Mapping[str, str] = field(default_factory=dict)


class _Names:
    """Who has which name; case does not matter."""

    def __init__(self, taken: Mapping[str, str], patterns: Sequence[tuple[str, Model]]) -> None:
        self._holders = {name.casefold(): holder for name, holder in taken.items()}
        self._patterns = [item for item in patterns if item[0].strip("*")]  # not that for all

    def holder(self, name: str) -> str | None:
        """Whose name it is; a pattern of the configuration has all that it matches."""
        from daemon.config.catalog import matches

        folded = name.casefold()
        if (known := self._holders.get(folded)) is not None:
            return known
        return next((m.name for pattern, m in self._patterns if matches(pattern, folded)), None)

    def claim(self, name: str, holder: str, *, exactly: bool = False) -> bool:
        """True: it had no holder. ``exactly``: whatever patterns match it."""
        folded = name.casefold()
        if folded in self._holders or (not exactly and self.holder(name) is not None):
            return False
        self._holders[name.casefold()] = holder
        return True


def named(
    finds: Sequence[Find],
    taken: Mapping[str, str],
    patterns: Sequence[tuple[str, Model]],
    held: Mapping[FileId, str],
    base: Model,
) -> Named:
    """Give every find a name of its own, in their order.

    ``taken``: names of the configuration and its presets, and whose they are; ``held``: the files
    that these already serve. Whoever comes second to a name is ``NAME@PLACE``. ``base``: a model
    of which nothing is written.
    """
    names = _Names(taken, patterns)
    clashes: dict[str, str] = {}
    also: dict[str, str] = {}
    owners: list[tuple[str, Find]] = []
    for find in finds:
        owner = held.get(find.file)
        if owner is None:
            owner = find.names[0]
            if not names.claim(owner, owner):
                first = names.holder(owner) or ""
                owner = _second(names, owner, find.place)
                clashes[owner] = first
        owners.append((owner, find))
    aliases: dict[str, list[str]] = {owner: [] for owner, _ in owners}
    for owner, find in owners:
        for name in find.names:
            if name.casefold() != owner.casefold() and names.claim(name, owner):
                aliases[owner].append(name)
    for owner, short in _unique(owners):
        if names.claim(short, owner):
            aliases[owner].append(short)
    for owner, find in owners:
        if find.file in held:
            also.update(dict.fromkeys(aliases[owner], owner))
    own = {owner: find for owner, find in owners if find.file not in held}
    models = {name: as_model(name, find, tuple(aliases[name]), base) for name, find in own.items()}
    return Named(models, own, clashes, also)


def _second(names: _Names, name: str, place: str) -> str:
    """A name of its own for whoever comes too late."""
    wanted, count = f"{name}@{place}", 1
    while not names.claim(wanted, wanted, exactly=True):
        count += 1
        wanted = f"{name}@{place}-{count}"
    return wanted


def _unique(owners: Sequence[tuple[str, Find]]) -> Iterator[tuple[str, str]]:
    """Short names that belong to one model alone."""
    wanted: dict[str, set[str]] = {}
    for owner, find in owners:
        for short in find.shorts:
            wanted.setdefault(short.casefold(), set()).add(owner)
    for owner, find in owners:
        for short in find.shorts:
            if len(wanted[short.casefold()]) == 1:
                yield owner, short


def as_model(name: str, find: Find, aliases: tuple[str, ...], base: Model) -> Model:
    """The find as a model of the catalog, with the defaults for all that it does not say."""
    llama = tuple(arg for path in find.adapters for arg in ("--lora", str(path)))
    kind: Kind | None = None
    if find.template:
        llama = (*llama, "--chat-template", find.template)
        kind = "chat"
    talks = find.kind in ("chat", "completion")
    made = replace(
        base,
        name=name,
        aliases=aliases,
        path=find.path,
        mmproj=str(find.mmproj) if find.mmproj is not None else None,
        kind=kind,
        engine_args=dict.fromkeys(("llama-server", "xllamacpp"), llama) if llama else {},
        params=Fields(default=dict(find.params)) if find.params and talks else Fields(),
    )
    if find.ctx is None:
        return made
    return replace(made, ctx=find.ctx, min_ctx=min(made.min_ctx, find.ctx))
