"""Incidents: backends that ended unasked, kept as values. Pure.

A *scene* is what could be seen in the moment of an exit, before the books forget it. Scene and
event make an incident; what is done about it, and what follows, is written into it later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from daemon.logs.lines import clip, escape
from daemon.logs.redact import redact
from daemon.views import BesideView, HeldView, IncidentView

MAX_KEPT: Final = 500  # incidents
MAX_BYTES: Final = 2 << 20  # of all together, as they are written
MAX_LINES: Final = 8 << 10  # bytes of matching lines of one: the last of them
MAX_TEXT: Final = 2000  # characters of any other text
MAX_LIST: Final = 64  # pools, neighbours


@dataclass(frozen=True, slots=True)
class Scene:
    """What was seen of one backend as its exit was told. ``secrets``: those of its start."""

    model: str
    generation: int
    engine: str = ""
    version: str = ""
    status: int | None = None
    serving: bool = False
    age: float | None = None
    lines: Sequence[str] = ()
    advice: str = ""
    variant: str = ""
    context: int | None = None
    slots: int | None = None
    leases: int = 0
    queue: int = 0
    memory: Sequence[HeldView] = ()
    beside: Sequence[BesideView] = ()
    near_budget: bool = False
    at: float | None = None  # when it ended, where that is known better than from the event
    unattended: bool = False
    secrets: Sequence[str] = field(default=(), repr=False)


def incident(number: int, at: float, scene: Scene, facts: Mapping[str, Any]) -> IncidentView:
    """The incident of one unasked exit; ``facts`` are those of the core's event ``exited``."""

    def fit(text: str) -> str:
        return escape(redact(text, scene.secrets))[:MAX_TEXT]

    return IncidentView(
        id=number,
        at=at,
        model=scene.model,
        engine=scene.engine,
        version=fit(scene.version),
        generation=scene.generation,
        exit_class=str(facts["exit_class"]),
        detail=fit(str(facts["detail"])),
        status=scene.status,
        serving=scene.serving,
        age=scene.age,
        lines=last_lines(scene.lines, lambda line: redact(line, scene.secrets)),
        advice=fit(scene.advice),
        variant=fit(scene.variant),
        context=scene.context,
        slots=scene.slots,
        leases=scene.leases,
        queue=scene.queue,
        memory=list(scene.memory)[:MAX_LIST],
        beside=list(scene.beside)[:MAX_LIST],
        near_budget=scene.near_budget,
        kernel_kills=None,
        unattended=scene.unattended,
    )


def last_lines(lines: Sequence[str], clean: Callable[[str], str]) -> list[str]:
    """The last of the lines, in at most ``MAX_LINES`` bytes, without secrets and escaped."""
    kept: list[str] = []
    left = MAX_LINES
    for line in reversed(lines):
        shown = clip(escape(clean(line)), left)
        left -= len(shown.encode()) + 1
        if left < 0:
            break
        kept.append(shown)
        if left < 64:
            break
    return kept[::-1]


Done = Literal["backoff", "gave_up", "half_open"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was done about a death. ``seconds`` until the next start is allowed (None: it is given
    up until something changes); ``variant``: the way it will run then."""

    done: Done
    seconds: float | None = None
    variant: str = ""


@dataclass(slots=True)
class Book:
    """All incidents that are kept, oldest first. ``changed`` counts its changes."""

    kept: list[IncidentView] = field(default_factory=list)
    changed: int = 0

    def add(self, at: float, scene: Scene, facts: Mapping[str, Any]) -> IncidentView:
        """A new one; of the one before of that model it is what followed."""
        self.follow(scene.model, "died", at)
        number = max((one.id for one in self.kept), default=0) + 1
        one = incident(number, at, scene, facts)
        self.kept.append(one)
        del self.kept[:-MAX_KEPT]
        self.changed += 1
        return one

    def answer(self, model: str, generation: int, answer: Answer) -> IncidentView | None:
        """What was done about that model's last death."""
        one = self._last(model)
        if one is None or one.generation != generation or one.done:
            return None
        other = answer.variant[:MAX_TEXT]
        return self._put(
            replace(
                one,
                done=answer.done,
                done_seconds=answer.seconds,
                next_variant=other if other != one.variant else "",
            )
        )

    def follow(
        self, model: str, what: Literal["ready", "died", "reset", "taken_back"], at: float
    ) -> IncidentView | None:
        """What came after that model's last death. The first word counts; only a reset is
        overwritten, by what came of it."""
        one = self._last(model)
        if one is None or one.followed not in ("", "reset") or one.followed == what:
            return None
        seconds = round(max(0.0, at - one.at), 3)
        return self._put(replace(one, followed=what, followed_seconds=seconds))

    def kills(self, number: int, count: int) -> None:
        """How many processes the system has killed for want of memory meanwhile."""
        for one in reversed(self.kept):
            if one.id == number:
                self._put(replace(one, kernel_kills=count))
                return

    def of(self, model: str | None) -> list[IncidentView]:
        """Those of one model, or all; newest first."""
        return [one for one in reversed(self.kept) if model in (None, one.model)]

    def _last(self, model: str) -> IncidentView | None:
        return next((one for one in reversed(self.kept) if one.model == model), None)

    def _put(self, one: IncidentView) -> IncidentView:
        index = next(i for i, old in enumerate(self.kept) if old.id == one.id)
        self.kept[index] = one
        self.changed += 1
        return one
