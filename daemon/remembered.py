"""What failed starts have taught, on its way to the disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.backends.prepare import Prepared
from daemon.backends.standings import Standings
from daemon.backends.stock import REMEDY, engine_key
from daemon.core.messages import Standing
from daemon.engines.signatures import METAL_RETRY
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

    def remedied(self, item: Prepared, *, needed: bool) -> tuple[str, dict[str, object]] | None:
        """The same for the engine of this model, unless the user has set it himself: what to tell
        of it, if it is needed and that is news."""
        if item.installed is None or METAL_RETRY.keys() <= item.engine_env.keys():
            return None
        engine = f"{item.installed.engine} {item.installed.version}".strip()
        if not self.remedy(engine_key(item.installed), engine, needed=needed) or not needed:
            return None
        return f"{engine}: {REMEDY}", {"engine": engine, "env": dict(METAL_RETRY)}

    async def written(self) -> None:
        """Wait until all of it is on the disk."""
        await self._writer.done()
