"""Whether a backend that has work goes on with it. Pure: what is seen and when in, what to do out.

``/health`` is not asked: it is ok while a server is wedged in the middle of an answer
(ggml-org/llama.cpp#27388) or lost its GPU (#27309), and silent for half an hour during an honest
prefill (ik_llama.cpp#1210). Progress decides: bytes of answers, what the engine says of its slots,
its log, memory and disk, processor and GPU time. Without any of it for ``stall`` seconds the
backend is asked for one token, and only if that is not answered either, and still nothing moves
for ``patience`` seconds, is it given up. So a long prefill is never ended, however long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from daemon.backends.progress import BUSY_SHARE, Signs, moved

# CPU time that adds up since the last progress: a server that only waits takes less (Python's about
# 0.3% of a core, llama-server none), one that feeds a GPU takes more.
WORKING_SHARE = 0.01
TICKS = 0.05  # seconds of CPU time below which the system's own counting is too coarse
STRIKES = 3  # answers of status 5xx in a row, and the backend is asked what is the matter


@dataclass(frozen=True, slots=True)
class Glance:
    """What is seen of a backend at one moment.

    ``requests`` in flight; ``relayed``: bytes of good answers so far; ``slots``: what the engine
    says of them, in any form that changes when they go on ("": it was not asked, or did not
    answer); ``computing``: a GPU works for it just now.
    """

    requests: int
    relayed: int
    signs: Signs
    slots: str = ""
    computing: bool = False


class Step(Enum):
    """What to do after a look."""

    REST = auto()  # no work, no doubt: it need not be looked at
    WATCH = auto()
    PROBE = auto()  # ask it for one token
    GIVE_UP = auto()


def alive(mark: Glance, last: Glance, now: Glance, *, since: float, between: float) -> bool:
    """Whether anything went on: ``mark`` is what is compared with, as of ``since`` seconds ago,
    ``last`` the look before, ``between`` seconds ago."""
    if now.relayed != mark.relayed or now.computing:
        return True
    signs = now.signs
    if now.slots:
        if mark.slots and now.slots != mark.slots:
            return True
        signs = replace(signs, logged=mark.signs.logged)  # it logs that we asked
    if moved(mark.signs, signs) or signs.cpu - last.signs.cpu >= max(TICKS, BUSY_SHARE * between):
        return True
    spent = signs.cpu - mark.signs.cpu
    return spent < 0 or spent >= max(TICKS, WORKING_SHARE * since)  # less: a child of it ended


def at_work(before: Signs, after: Signs, seconds: float, *, computing: bool) -> bool:
    """Whether an engine that nothing is known of went on with something for ``seconds``."""
    first, now = Glance(0, 0, before), Glance(0, 0, after, computing=computing)
    return alive(first, first, now, since=seconds, between=seconds)


@dataclass(slots=True)
class Pulse:
    """What is remembered of one backend between two looks. Times are the caller's clock, seconds.

    A *doubt* (answers of 5xx, a line in its log, a machine that slept) has it asked at once, with
    or without requests in flight.
    """

    stall: float
    patience: float
    doubt: str = ""
    strikes: int = 0
    since: float = 0.0  # when it last went on
    asked_at: float | None = None  # a probe is under way since then
    _mark: Glance | None = None
    _marked: float = 0.0
    _last: Glance | None = None
    _looked: float = 0.0
    _relayed: int = 0  # when the probe began

    def look(self, seen: Glance, now: float) -> Step:
        """Take in what is seen at ``now``."""
        if seen.requests == 0 and self.asked_at is None and not self.doubt:
            self._mark = self._last = None
            return Step.REST
        mark, last = self._mark, self._last
        between, marked = now - self._looked, now - self._marked
        if not (mark and last) or alive(mark, last, seen, since=marked, between=between):
            self._mark, self._marked, self.since = seen, now, now
        elif seen.slots and not mark.slots:
            self._mark = replace(mark, slots=seen.slots)  # from here on they are compared
        self._last, self._looked = seen, now
        if self.asked_at is not None:
            silent = now - max(self.since, self.asked_at)
            return Step.GIVE_UP if silent > self.patience else Step.WATCH
        if self.doubt or now - self.since > self.stall:
            self.asked_at, self._relayed = now, seen.relayed
            self._mark, self._marked = seen, now  # work that begins now counts from now
            return Step.PROBE
        return Step.WATCH

    @property
    def relayed(self) -> int | None:
        """As of the last look; None: there was none."""
        return self._last.relayed if self._last is not None else None

    @property
    def signs(self) -> Signs:
        """As of the last look that took them in."""
        return self._last.signs if self._last is not None else Signs()

    def silent(self, now: float) -> float:
        """Seconds without progress."""
        return 0.0 if self._mark is None else now - self.since

    def answered(self, good: bool, relayed: int, now: float) -> Step:
        """The probe came back. A bad answer means little while others get good ones."""
        self.asked_at, self.doubt, self.strikes, self.since = None, "", 0, now
        self._mark = self._last = None
        return Step.WATCH if good or relayed != self._relayed else Step.GIVE_UP

    def status(self, status: int) -> bool:
        """An answer of this status went to a client; True if that raises a doubt.

        501 is no failure but a route that the engine was not started for.
        """
        if status < 500 or status == 501:
            if status:
                self.strikes = 0
            return False
        self.strikes += 1
        if self.strikes < STRIKES or self.doubt or self.asked_at is not None:
            return False
        self.doubt = f"{self.strikes} answers of status {status} in a row"
        return True
