"""Tokens counted by models' own tokenizers while no engine does it: in children of ours.

A tokenizer's library in the daemon would take 100 to 400 MB for as long as it lives; a child takes
them for a while. It is started by the first count for its model, counts in turn, and ends when
nothing was asked for a time, when another model needs its place, and with the daemon: at the
latest when its input ends. Whatever goes wrong, the count is None, and soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from daemon.engines.tokens import Recipe, environment
from daemon.ports import Tokens, Waiting

log = logging.getLogger(__name__)

MOST = 2  # children at once
TRIES = 3  # that a model's child may fail before it is given up, until the next reload
QUEUE = 64  # counts that wait for one child
QUEUE_BYTES = 16 << 20  # of chats
_START = 20.0  # seconds: reading 33 MB of vocabulary takes three; a program of ours, no setting
_REAP = 5.0  # seconds from KILL to its end

Done = Callable[[Tokens | None], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. ``answer``: what is not counted by then is not waited for; ``idle``: a child that
    has nothing to count ends."""

    answer: float = 5.0
    idle: float = 60.0


class _Asked:
    """One count. ``done`` is called once, unless it is cancelled."""

    __slots__ = ("_done", "_timer", "chat")

    def __init__(self, chat: bytes, done: Done, seconds: float) -> None:
        self.chat = chat
        self._done: Done | None = done
        self._timer = asyncio.get_running_loop().call_later(seconds, self.tell, None)

    @property
    def wanted(self) -> bool:
        return self._done is not None

    def tell(self, tokens: Tokens | None) -> None:
        done, self._done = self._done, None
        self._timer.cancel()
        if done is not None:
            done(tokens)

    def cancel(self) -> None:
        self._done = None
        self._timer.cancel()


class Counters:
    """Owner of the children. For the event loop's thread."""

    def __init__(
        self, patience: Patience | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.patience = patience or Patience()
        self._environ = environ
        self._children: dict[Recipe, _Child] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: Counter[Recipe] = Counter()
        self._closed = False

    def count(self, recipe: Recipe, chat: bytes, done: Done) -> Waiting | None:
        """Count the tokens of ``chat`` (a line of JSON). ``done`` gets None where that cannot be
        told in time; it may be called before this returns (then None is returned)."""
        child = self._children.get(recipe) or self._begin(recipe)
        if child is None or not child.takes(len(chat)):
            done(None)
            return None
        return child.ask(chat, done)

    def follow(self, patience: Patience) -> None:
        """The configuration was read again: what was given up is tried again."""
        self.patience = patience
        self._failures.clear()

    async def close(self) -> None:
        """End all children."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, recipe: Recipe) -> _Child | None:
        if self._closed or self._failures[recipe] >= TRIES:
            return None
        if len(self._children) >= MOST:
            idle = next((one for one in self._children.values() if one.idle), None)
            if idle is None:
                return None
            del self._children[idle.recipe]
            idle.task.cancel()
        child = self._children[recipe] = _Child(recipe, self)
        self._tasks.add(child.task)
        child.task.add_done_callback(child.gone)
        child.task.add_done_callback(self._tasks.discard)
        return child

    def works(self, child: _Child) -> None:
        """It has counted: the longest idle is always the first."""
        self._failures.pop(child.recipe, None)
        if self._children.pop(child.recipe, None) is not None:
            self._children[child.recipe] = child

    def over(self, child: _Child, trouble: str = "") -> None:
        """It takes no more."""
        if self._children.get(child.recipe) is child:
            del self._children[child.recipe]
        if trouble:
            self._failures[child.recipe] += 1
            what = "given up" if self._failures[child.recipe] >= TRIES else "estimated for now"
            log.info("tokens of %s are %s: %s", child.recipe.folder, what, trouble)

    @property
    def environment(self) -> dict[str, str]:
        """Of a child."""
        return environment(self._environ)


class _Child:
    """One process, from its start to its end."""

    def __init__(self, recipe: Recipe, owner: Counters) -> None:
        self.recipe = recipe
        self._owner = owner
        self._asked: deque[_Asked] = deque()
        self._bytes = 0
        self._now: _Asked | None = None
        self._more = asyncio.Event()
        self.task = asyncio.create_task(self._live(), name="token-counter")

    @property
    def idle(self) -> bool:
        return self._now is None and not self._asked

    def takes(self, size: int) -> bool:
        """Is there room for a chat of ``size`` bytes?"""
        return len(self._asked) < QUEUE and self._bytes + size <= QUEUE_BYTES

    def ask(self, chat: bytes, done: Done) -> _Asked:
        asked = _Asked(chat, done, self._owner.patience.answer)
        self._asked.append(asked)
        self._bytes += len(chat)
        self._more.set()
        return asked

    async def _live(self) -> None:
        process, trouble = None, ""
        try:
            process = await asyncio.create_subprocess_exec(
                *self.recipe.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._owner.environment,
                start_new_session=True,  # Ctrl-C in a terminal is the daemon's to handle
            )
            assert process.stdin is not None
            assert process.stdout is not None
            await self._serve(process.stdin, process.stdout)
        except TimeoutError:
            trouble = "their counter did not answer"
        except (OSError, ValueError, KeyError, TypeError) as error:
            trouble = str(error) or type(error).__name__
        finally:
            self._owner.over(self, trouble)
            self.gone()
            if process is not None:
                await _end(process)

    def gone(self, _task: object = None) -> None:
        """It counts no more (and may never have begun): who waits is told."""
        self._owner.over(self)
        for asked in (self._now, *self._asked):
            if asked is not None:
                asked.tell(None)

    async def _serve(self, orders: asyncio.StreamWriter, lines: asyncio.StreamReader) -> None:
        async with asyncio.timeout(_START):
            hello = _read(await lines.readline())
        if "error" in hello:
            raise ValueError(str(hello["error"]))
        while (asked := await self._next()) is not None:
            self._now = asked
            async with asyncio.timeout(self._owner.patience.answer):
                orders.write(asked.chat + b"\n")
                asked.chat = b""
                await orders.drain()
                said = _read(await lines.readline())
            tokens = said.get("tokens")
            asked.tell(Tokens(tokens, said["exact"] is True) if isinstance(tokens, int) else None)
            self._now = None
            self._owner.works(self)

    async def _next(self) -> _Asked | None:
        """What is counted next; None: nobody has asked for long, and it takes no more."""
        while True:
            while self._asked:
                asked = self._asked.popleft()
                self._bytes -= len(asked.chat)
                if asked.wanted:
                    return asked
            self._more.clear()
            try:
                # wait_for of 3.11 may miss being cancelled
                async with asyncio.timeout(self._owner.patience.idle):
                    await self._more.wait()
            except TimeoutError:
                if not self._asked:
                    self._owner.over(self)
                    return None


def _read(line: bytes) -> dict[str, object]:
    """A line of the child's. Raises ValueError."""
    if not line:
        raise ValueError("their counter ended")
    said = json.loads(line)
    if not isinstance(said, dict):
        raise ValueError("their counter said what cannot be read")
    return said


async def _end(process: asyncio.subprocess.Process) -> None:
    """It writes nothing that could be left half done, so it need not be asked."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    try:
        await asyncio.wait_for(process.wait(), _REAP)
    except TimeoutError:
        log.warning("the token counter %d did not end in %.0f s", process.pid, _REAP)
