"""What a found model's own header and chat template say of it, and where that is remembered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from daemon.config.finds import Find, HeaderFacts
from daemon.config.types import Kind
from daemon.files import Kept
from daemon.weights.errors import PartError, WeightsError

if TYPE_CHECKING:
    from daemon.weights.facts import Weights

MAX_KNOWN: Final = 4000  # models that are remembered
MAX_CACHE: Final = 8 << 20  # bytes of the file that holds them
VERSION: Final = 1  # of what is written there: another one is read anew
_PROBLEM: Final = 500  # characters of one that are kept
_TOOLS: Final = re.compile(r"\btools\b|\btool_calls?\b")
_THINKS: Final = re.compile(r"enable_thinking|</?think(?:ing)?>|reasoning_content|<\|channel\|>")


def abilities(kind: Kind, template: str | None, *, sees: bool) -> tuple[str, ...]:
    """What a model can do, by its kind and its template: of embedding, reranking, tools, vision,
    thinking."""
    if kind == "embedding":
        return ("embedding",)
    if kind == "rerank":
        return ("reranking",)
    text = template or ""
    found = {"tools": _TOOLS.search(text), "vision": sees, "thinking": _THINKS.search(text)}
    return tuple(name for name, has in found.items() if has)


def facts_of(weights: Weights, *, sees: bool) -> HeaderFacts:
    """What is shown of a model that was read."""
    return HeaderFacts(
        format=weights.format,
        architecture=weights.architecture[:80],
        kind=weights.kind,
        quantisation=weights.quantisation[:40],
        size=weights.disk_bytes,
        context=weights.n_ctx_train,
        parameters=weights.parameters,
        template=bool(weights.template),
        abilities=abilities(weights.kind, weights.template, sees=sees),
    )


def read_header(find: Find) -> HeaderFacts:
    """Read a find's header; what is wrong with it becomes ``problem``. Blocks: up to a second."""
    from daemon.weights.describe import describe  # with the first model: many machines have none

    problem = ""
    try:
        try:
            weights = describe(find.path, mmproj=find.mmproj)
        except WeightsError as error:
            if find.mmproj is None or isinstance(error, PartError):
                raise
            weights = describe(find.path)  # then it is the projector that is broken
            problem = str(error)
    except PartError as error:
        return HeaderFacts(problem=_short(error), part=True)
    except WeightsError as error:
        return HeaderFacts(problem=_short(error))
    if weights.tensor_bytes == 0:
        return HeaderFacts(problem=f"{find.path.name}: holds no weights", part=True)
    found = facts_of(weights, sees=weights.vision)
    return replace(found, problem=problem[:_PROBLEM]) if problem else found


def _short(error: Exception) -> str:
    return str(error)[:_PROBLEM]


@dataclass(slots=True)
class Known:
    """Facts by path and stamp (size and time of change), in memory and in a file of ours."""

    file: Path
    _facts: dict[str, HeaderFacts] | None = None
    _changed: bool = False
    _kept: Kept = field(init=False)

    def __post_init__(self) -> None:
        self._kept = Kept(self.file, MAX_CACHE)

    def get(self, find: Find) -> HeaderFacts | None:
        """What is known of it as it is now."""
        return self._load().get(_key(find))

    def put(self, find: Find, facts: HeaderFacts) -> None:
        self._load()[_key(find)] = facts
        self._changed = True

    def tidy(self, finds: Iterable[Find]) -> None:
        """Forget all but these, and write what is new."""
        known = self._load()
        keys = dict.fromkeys(_key(find) for find in list(finds)[:MAX_KNOWN])
        kept = {key: known[key] for key in keys if key in known}
        if not self._changed and len(kept) == len(known):
            return
        self._facts, self._changed = kept, False
        told = {key: _brief(facts) for key, facts in kept.items()}
        self._kept.write(json.dumps({"version": VERSION, "models": told}).encode())

    def _load(self) -> dict[str, HeaderFacts]:
        if self._facts is None:
            self._facts = _stored(self._kept.read())
        return self._facts


def _key(find: Find) -> str:
    return f"{find.path}\0{find.mmproj or ''}\0{find.stamp}"


_EMPTY: Final = asdict(HeaderFacts())


def _brief(facts: HeaderFacts) -> dict[str, Any]:
    return {name: value for name, value in asdict(facts).items() if value != _EMPTY[name]}


def _stored(data: bytes | None) -> dict[str, HeaderFacts]:
    """What a file of ours holds; nothing where it is another version's or damaged."""
    try:
        told = json.loads(data) if data else {}
        if told.get("version") != VERSION:
            return {}
        return {str(key): _facts(value) for key, value in told["models"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


_TYPES: Final = {f.name: type(_EMPTY[f.name]) for f in fields(HeaderFacts)}


def _facts(told: Mapping[str, Any]) -> HeaderFacts:
    given = {**told}
    if "abilities" in given:
        given["abilities"] = tuple(str(one) for one in given["abilities"])
    for name, value in given.items():
        if not isinstance(value, _TYPES[name]):
            raise TypeError(name)
    if given.get("kind", "chat") not in get_args(Kind):
        raise ValueError("kind")
    return HeaderFacts(**given)
