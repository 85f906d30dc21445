"""Keeping something on the disk that changes in the event loop: written in a thread, one write at a
time, and what changes meanwhile goes with the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

log = logging.getLogger("modelport.writing")
T = TypeVar("T")


@dataclass(slots=True)
class Writer(Generic[T]):
    """``take`` is called in the loop and gives what is to be written, ``write`` in a thread.
    ``name``: what it is, for people. What fails is logged: nobody needs it for serving."""

    name: str
    take: Callable[[], T]
    write: Callable[[T], object]
    _task: asyncio.Task[None] | None = None
    _due: bool = False

    def soon(self) -> None:
        """It has changed."""
        self._due = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"writing {self.name}")

    async def done(self) -> None:
        """Wait until all of it is on the disk, as far as that takes it."""
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            while self._due:
                self._due = False
                await asyncio.to_thread(self.write, self.take())
        except Exception:
            log.exception("%s could not be written", self.name)
