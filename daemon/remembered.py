"""What failed starts have taught, on its way to the disk: changed in the loop, written in a thread,
one write at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from daemon.backends.standings import Standings
from daemon.core.messages import Standing


@dataclass(slots=True)
class Remembered:
    """See the module."""

    standings: Standings
    _writing: asyncio.Task[None] | None = None
    _unwritten: bool = False

    def standing(self, key: str, model: str, standing: Standing | None) -> None:
        """Where a model stands on its ladder; None: at its full size."""
        self.standings.put(key, model, standing)
        self._write()

    def remedy(self, key: str, engine: str, *, needed: bool) -> bool:
        """Whether an engine is started with its remedy; True if that is news."""
        news = self.standings.remedy(key, engine, needed=needed)
        if news:
            self._write()
        return news

    def _write(self) -> None:
        self._unwritten = True
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        while self._unwritten:
            self._unwritten = False
            text = self.standings.text()
            await asyncio.to_thread(self.standings.write, text)

    async def written(self) -> None:
        """Wait until all of it is on the disk."""
        if self._writing is not None:
            await self._writing
