"""What tests have found, kept per model and version of its engine: ``ctl test`` brings it, ``ctl
ls`` and ``ctl show`` tell of it.

A small file of ours in the state directory: what cannot be read is moved aside and forgotten, what
cannot be written is written later.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from daemon.backends.prepare import Prepared
from daemon.files import Kept
from daemon.proving.verdict import ORDER, verdict
from daemon.views import FindingView, VerdictView
from daemon.writing import Writer

VERSION: Final = 1
MAX_ENTRIES: Final = 256  # those tested last are kept
MAX_PER_MODEL: Final = 8
MAX_FILE: Final = 4 << 20  # bytes; 256 entries take a quarter of it
MAX_TEXT: Final = 400
OUTCOMES: Final = frozenset({"works", "but", "broken", "skipped", "unknown"})
FAULTS: Final = frozenset({"", "model", "plumbing"})


@dataclass(frozen=True, slots=True)
class Served:
    """How a model is served: a verdict holds for this and nothing else."""

    model: str
    engine: str
    version: str
    source: str

    @classmethod
    def of(cls, item: Prepared) -> Served:
        """As it would be started now."""
        version = item.installed.version if item.installed is not None else ""
        return cls(item.model.name, item.engine_name or "", version, item.source)


@dataclass(frozen=True, slots=True)
class Entry:
    """What was found, newest findings of each step. ``at``: seconds since the epoch."""

    served: Served
    at: float
    modelport: str
    steps: Mapping[str, FindingView]


@dataclass(slots=True)
class Verdicts:
    """The entries of ``path``; None keeps them in memory. For the event loop, but for :meth:`load`.
    ``now``: seconds since the epoch."""

    path: Path | None = None
    now: Callable[[], float] = time.time
    _entries: list[Entry] = field(default_factory=list)  # the newest last
    _writer: Writer[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._writer = Writer("tests", self._text, self._write)

    def load(self) -> None:
        """Read the file. Blocks on the disk."""
        if self.path is not None:
            self._entries = _read(Kept(self.path, MAX_FILE))

    def of(self, served: Served) -> list[VerdictView]:
        """All tests of a model, the newest first, but that of what is served now before others."""
        found = [e for e in reversed(self._entries) if e.served.model == served.model]
        found.sort(key=lambda entry: entry.served != served)
        return [_view(entry, current=entry.served == served) for entry in found]

    def last(self, served: Served) -> VerdictView | None:
        """The first of :meth:`of`."""
        return next(iter(self.of(served)), None)

    def keep(
        self, served: Served, steps: Sequence[FindingView], modelport: str
    ) -> VerdictView | None:
        """Remember findings beside those of other steps of the same served model. A step that could
        not be tried says nothing and replaces nothing. None: nothing is known of it."""
        said = {step.step: step for step in steps if step.outcome != "unknown"}
        before = next((e for e in self._entries if e.served == served), None)
        if not said:
            return _view(before, current=True) if before is not None else None
        merged = {**(before.steps if before else {}), **said}
        ordered = {name: merged[name] for name in ORDER if name in merged}
        entry = Entry(served, self.now(), modelport, ordered)
        self._entries = [*(e for e in self._entries if e.served != served), entry]
        self._trim(served.model)
        self._writer.soon()
        return _view(entry, current=True)

    def _trim(self, model: str) -> None:
        own = [entry for entry in self._entries if entry.served.model == model]
        gone = {id(entry) for entry in own[:-MAX_PER_MODEL]}
        kept = [entry for entry in self._entries if id(entry) not in gone]
        self._entries = kept[-MAX_ENTRIES:]

    async def written(self) -> None:
        """Wait until all of it is on the disk."""
        await self._writer.done()

    def _text(self) -> bytes:
        entries = [
            {
                **asdict(entry.served),
                "at": entry.at,
                "modelport": entry.modelport,
                "steps": [asdict(step) for step in entry.steps.values()],
            }
            for entry in self._entries
        ]
        return json.dumps({"version": VERSION, "entries": entries}).encode()

    def _write(self, data: bytes) -> None:
        if self.path is not None:
            Kept(self.path, MAX_FILE).write(data)


def _view(entry: Entry, *, current: bool) -> VerdictView:
    word, text = verdict(entry.steps)
    return VerdictView(
        **asdict(entry.served),
        verdict=word,
        text=text,
        at=entry.at,
        modelport=entry.modelport,
        current=current,
        findings=list(entry.steps.values()),
    )


def _read(kept: Kept) -> list[Entry]:
    """The entries of a file; none of it where it is not ours to understand."""

    def made(stored: dict[str, Any]) -> list[Entry]:
        return [_entry(value) for value in stored["entries"][-MAX_ENTRIES:]]

    return kept.load(VERSION, made) or []


def _entry(value: Mapping[str, Any]) -> Entry:
    names = ("model", "engine", "version", "source", "modelport")
    model, engine, version, source, modelport = (_word(value[name]) for name in names)
    at = value["at"]
    if type(at) not in (int, float) or not 0 <= at < 1e12:
        raise ValueError(f"a time is {at!r:.40}")
    steps = [_step(one) for one in value["steps"]]
    known = {step.step: step for step in steps if step.step in ORDER}
    return Entry(Served(model, engine, version, source), float(at), modelport, known)


def _step(value: Mapping[str, Any]) -> FindingView:
    names = ("step", "outcome", "text", "fault", "hint")
    step, outcome, text, fault, hint = (_word(value[name]) for name in names)
    seconds = value["seconds"]
    if outcome not in OUTCOMES or fault not in FAULTS or type(seconds) not in (int, float):
        raise ValueError(f"a step has the outcome {outcome!r:.40}")
    return FindingView(
        step=step, outcome=outcome, text=text, fault=fault, hint=hint, seconds=float(seconds)
    )


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is {value!r:.40}")
    return value[:MAX_TEXT]
