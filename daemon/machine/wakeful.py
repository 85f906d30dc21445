"""Holding off the machine's idle sleep: when (pure), and by which program.

Idle sleep only: a person who closes the lid or chooses "sleep" is obeyed, and the screen may go
dark and lock as ever on a Mac. On Linux the lock is logind's ``idle``, which any user may take
without being asked (org.freedesktop.login1.policy); ``sleep`` would also refuse a person's own
wish, and ``systemctl suspend`` with it. On macOS it is the assertion PreventUserIdleSystemSleep.

Both are held by a child, so that no descriptor has to be kept and no run loop is needed: it lives
as long as its standard input is open, and a daemon that is killed takes it along.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

WHO: Final = "modelport"
WHY_IDLE: Final = "requests are being answered"
WHY_DELAY: Final = "models are unloaded first"
PASSED_ON: Final = ("PATH", "DBUS_SYSTEM_BUS_ADDRESS", "LANG", "LC_ALL")
SETTLE: Final = 0.5  # seconds; a program that refuses ends within them
END: Final = 2.0  # seconds from TERM to KILL
_SAID: Final = 300  # characters of what it said that are told


@dataclass(frozen=True, slots=True)
class Spell:
    """Work, with pauses shorter than the release in it. Instants are seconds of one clock.

    ``busy``: there is work now; ``began``: of this spell, None while there is none; ``last``: when
    work was last seen to end.
    """

    busy: bool = False
    began: float | None = None
    last: float = 0.0

    def told(self, busy: bool, now: float, release: float) -> Spell:
        """Work came or went."""
        spell = self.at(now, release)
        if busy and not spell.busy:
            return replace(spell, busy=True, began=now if spell.began is None else spell.began)
        if not busy and spell.busy:
            return replace(spell, busy=False, last=now)
        return spell

    def at(self, now: float, release: float) -> Spell:
        """As it is ``now``: a spell is over ``release`` seconds after its last work."""
        over = self.began is not None and not self.busy and now >= self.last + release
        return Spell() if over else self

    def holds(self, now: float, hold: float, release: float) -> bool:
        """Whether idle sleep is held off: the spell is ``hold`` seconds old, and not over."""
        began = self.at(now, release).began
        return began is not None and now >= began + hold

    def next(self, now: float, hold: float, release: float) -> float | None:
        """When :meth:`holds` may next become another without news; None: never."""
        spell = self.at(now, release)
        if spell.began is None:
            return None
        starts, ends = spell.began + hold, spell.last + release
        if spell.busy:
            return starts if starts > now else None
        return min((at for at in (starts, ends) if at > now), default=None)


def idle_lock(platform: str = sys.platform) -> tuple[str, ...]:
    """The program that keeps this kind of machine from idle sleep; () for none known."""
    if platform == "darwin":  # caffeinate(8); -i: the system, not the display
        return ("caffeinate", "-i", "cat")
    if platform == "linux":  # systemd-inhibit(1)
        return _inhibit("idle", "block", WHY_IDLE)
    return ()


def delay_lock(platform: str = sys.platform) -> tuple[str, ...]:
    """The program for time before a sleep (InhibitDelayMaxSec of logind.conf(5), 5 s unless it is
    set); () where there is none."""
    return _inhibit("sleep", "delay", WHY_DELAY) if platform == "linux" else ()


def _inhibit(what: str, mode: str, why: str) -> tuple[str, ...]:
    facts = (f"--what={what}", f"--mode={mode}", f"--who={WHO}", f"--why={why}")
    return ("systemd-inhibit", *facts, "cat")


@dataclass(slots=True)
class Lock:
    """One lock, held by one child from :meth:`take` to :meth:`release`."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    _child: asyncio.subprocess.Process | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def held(self) -> bool:
        return self._child is not None and self._child.returncode is None

    @property
    def pid(self) -> int | None:
        """Of the child that holds it."""
        return self._child.pid if self._child is not None and self.held else None

    async def take(self) -> str:
        """Hold it from now on; "" or why it is not held. Returns within :data:`SETTLE` seconds and
        what it takes to start a program."""
        async with self._turn:
            if self.held:
                return ""
            await self._end()
            if not self.argv:
                return "this system has no program for it"
            where = self.environ.get("PATH")
            path = await asyncio.to_thread(shutil.which, self.argv[0], path=where)
            if path is None:
                return f"{self.argv[0]} is not on this machine"
            try:
                child = self._child = await asyncio.create_subprocess_exec(
                    path,
                    *self.argv[1:],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={k: v for k, v in self.environ.items() if k in PASSED_ON},
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                return f"{self.argv[0]}: {error.strerror or error}"
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE):
                    await child.wait()
            return await self._refusal(child)

    async def _refusal(self, child: asyncio.subprocess.Process) -> str:
        if child.returncode is None:
            return ""
        said = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                assert child.stderr is not None
                said = await child.stderr.read(_SAID)
        await self._end()
        text = " ".join(said.decode("utf-8", "replace").split())
        return f"{self.argv[0]}: {text or f'it ended with {child.returncode}'}"

    async def release(self) -> None:
        """Hold it no longer; the child is gone when this returns."""
        async with self._turn:
            await self._end()

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.stdin is not None:
            child.stdin.close()
        _signal(child, signal.SIGTERM)
        try:
            async with asyncio.timeout(END):
                await child.wait()
        except TimeoutError:
            _signal(child, signal.SIGKILL)
            await child.wait()


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """To the child and what it started: it leads a session of its own."""
    if child.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
