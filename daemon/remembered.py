"""What failed starts have taught, on its way to the disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.backends.standings import Standings
from daemon.core.messages import Standing
from daemon.writing import Writer


@dataclass(slots=True)
class Remembered:
    """See the module."""

    standings: Standings
    _writer: Writer[str] = field(init=False)

    def __post_init__(self) -> None:
        self._writer = Writer("standings", self.standings.text, self.standings.write)

    def standing(self, key: str, model: str, standing: Standing | None) -> None:
        """Where a model stands on its ladder; None: at its full size."""
        self.standings.put(key, model, standing)
        self._writer.soon()

    def remedy(self, key: str, engine: str, *, needed: bool) -> bool:
        """Whether an engine is started with its remedy; True if that is news."""
        news = self.standings.remedy(key, engine, needed=needed)
        if news:
            self._writer.soon()
        return news

    async def written(self) -> None:
        """Wait until all of it is on the disk."""
        await self._writer.done()
