"""What is to be on this disk: models by name, and repositories that nobody has configured."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daemon.config.model import Model
from daemon.configured import Configured
from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads.locate import locate, locate_projector, shards
from daemon.downloads.wanted import HUB, of_hub
from daemon.ports import Progress
from daemon.pulling import Pulls
from daemon.reading import file_id
from daemon.translate import patience
from daemon.views import PullView

log = logging.getLogger("modelport.pulls")


@dataclass(slots=True)
class Bringing:
    """Pulls as people ask for them: by any name of a model, or as ``hf:OWNER/REPO[:QUANT]``."""

    configured: Configured
    look: Callable[[], Awaitable[None]]  # for models on this disk

    def views(self) -> list[PullView]:
        """Those under way, the oldest first."""
        return self.configured.pulls.views()

    def view(self, name: str) -> PullView:
        """The one of this name. Raises ProblemError (PULL_UNKNOWN, MODEL_NOT_FOUND)."""
        found = self._pulls.view(self._key(name))
        if found is None:
            raise ProblemError(self._pulls.unknown(name))
        return found

    async def cancel(self, name: str) -> PullView:
        """See ``Pulls.cancel``."""
        return await self._pulls.cancel(self._key(name))

    def _key(self, name: str) -> str:
        """By which a pull is known: also one of a model that has left the configuration."""
        return name if self._pulls.view(name) is not None else self.wanted(name).name

    @property
    def _pulls(self) -> Pulls:
        return self.configured.pulls

    def wanted(self, name: str) -> Model:
        """What is meant by a name in a pull: a model, a preset, or ``hf:OWNER/REPO[:QUANT]``, also
        where that is what a model is made of. Raises ProblemError."""
        if name.startswith(HUB):
            other = of_hub(name)
            models = self.configured.stock.catalog.models.values()
            known = (m for m in models if m.path is None and m.file is None)
            return next((model for model in known if model.hf == other.hf), other)
        item = self.configured.named(name)
        if isinstance(item, Problem):
            raise ProblemError(item)
        return self.configured.original(item.model.name)

    async def pull(
        self, name: str, *, again: bool = False, anyway: bool = False
    ) -> AsyncIterator[Progress]:
        """Bring a model's files; ends when they are there.

        Raises ProblemError: MODEL_TOO_LARGE among others for a preset of which nothing fits this
        machine, unless it is to be brought ``anyway``.
        """
        if not name.startswith(HUB):
            await self.configured.decide(name)
        model, reader = self.wanted(name), self.configured.reader
        if model.path is None and model.repo is None and model.install is None:
            yield Progress("pull", f"{model.name} needs no download", 1.0)
        elif await asyncio.to_thread(reader.complete, model):
            item = self.configured.prepared(model.name)
            if not model.name.startswith(HUB) and (item is None or not item.pulled):
                await self.configured.arrived(model)  # by another way
            yield Progress("pull", f"{model.name} is on this machine", 1.0)
        elif model.repo is None and not await asyncio.to_thread(reader.present, model):
            raise ProblemError(reader.missing(model))
        else:
            if model.choice is not None and model.choice.refusal is not None and not anyway:
                raise ProblemError(await self._too_large(model))
            if model.choice is not None:
                yield Progress("choose", model.choice.text)
            waits = patience(self.configured.settings)
            async for step in self._pulls.watch(model, waits, again=again):
                yield step

    async def _too_large(self, model: Model) -> Problem:
        """Why it is not fetched, and which preset is to be taken instead: of all."""
        from daemon.choosing import refusal

        await self.configured.decide()
        problem = refusal(model, self.configured.stock.catalog.presets.values())
        assert problem is not None, "it has one already: only its hint was sought"
        return problem

    async def done(self, name: str) -> Progress:
        """The last step of a pull: what is there now, and the name that it is asked for by."""
        model = self.wanted(name)
        facts: dict[str, object] = {"model": model.name, "served_as": model.name}
        if model.repo is not None:
            facts["source"] = f"{HUB}{model.hf}"
            facts |= await asyncio.to_thread(_on_disk, model)
        if model.name.startswith(HUB):
            facts |= await self._served_as(model, facts.get("path"))
        return Progress("done", f"{model.name} is on this machine", 1.0, facts)

    async def _served_as(self, model: Model, path: object) -> dict[str, object]:
        """By which name what nobody has configured is served: a model of the same files has one, or
        it is found (``found``) as any other on this disk; "" where it is not."""
        served = self.configured.stock.prepared.values()
        known = next((item.model.name for item in served if item.model.hf == model.hf), "")
        if known or path is None:
            return {"served_as": known}
        with suppress(TimeoutError):  # a disk that hangs: it is found later
            async with asyncio.timeout(self.configured.settings.timing.discovery_wait):
                await self.look()
        place = Path(str(path))
        file = await asyncio.to_thread(file_id, place)
        if file is not None and (owner := self.configured.reader.held.get(file)):
            return {"served_as": owner}
        for name, find in self.configured.stock.catalog.finds.items():
            if (find.path == place or find.file == file) and not find.trouble:
                return {"served_as": name, "found": True}
        return {"served_as": ""}

    async def take_up(self) -> None:
        """Go on with the pulls in whose middle the daemon was ended."""
        record = self._pulls.unfinished
        names = await asyncio.to_thread(record.names) if record is not None else []
        await asyncio.gather(*(self._take_up(name) for name in names))

    async def _take_up(self, name: str) -> None:
        record = self._pulls.unfinished
        assert record is not None
        log.info("the pull of %s goes on where it was interrupted", name)
        try:
            async for _ in self.pull(name, again=True):
                pass
        except ProblemError as error:
            log.warning("the pull of %s: %s", name, error)
            if error.problem.code in (Code.SHUTTING_DOWN, Code.NOT_PULLED):
                return  # the next life of the daemon tries again
        await asyncio.to_thread(record.end, name)


def _on_disk(model: Model) -> dict[str, object]:
    """Where its weights are, their bytes, and a projector that came with them."""
    assert model.repo is not None
    path = locate(model.repo, model.quant, model.file)
    if path is None:
        return {}
    facts: dict[str, object] = {"path": str(path), "size": sum(_sizes(path))}
    projector = locate_projector(path) if path.is_file() else None
    if projector is not None:
        facts["projector"] = projector.name
    return facts


def _sizes(path: Path) -> Iterator[int]:
    files = path.rglob("*") if path.is_dir() else shards(path)
    return (file.stat().st_size for file in files if file.is_file())
