"""Looks at the disk for models when somebody needs to know: a list, a name that is none of ours.

No timer and no watch: a look is some milliseconds in a thread, looks are made one at a time, and
strangers' names cause no more than one in ``timing.discovery_pause``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from daemon.backends.prepare import Prepared
from daemon.config.catalog import Catalog, foreign
from daemon.config.finds import Engines, Find
from daemon.configured import Configured
from daemon.core.problems import Problem, ProblemError
from daemon.ports import Resolved, Wish
from daemon.reading import files_held

log = logging.getLogger("modelport.discovery")

SHOWN = 5  # new models that are named in the log


@dataclass(slots=True)
class Finder:
    """See the module. ``clock``: seconds."""

    configured: Configured
    clock: Callable[[], float]
    _last: float = float("-inf")  # when the last look for a stranger's name began
    _begun: int = 0
    _over: int = 0
    _work: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def look(self) -> None:
        """Return once a look that began after this call is over."""
        wanted = self._begun + 1
        while self._over < wanted:
            if self._work is None:
                self._begun += 1
                self._last = self.clock()
                self._work = self._begin(self._run(), "look")
            # Whoever leaves does not end it: a disk that hangs holds one thread, not one for each.
            await asyncio.shield(self._work)

    async def _run(self) -> None:
        try:
            await self._look()
        except ProblemError as error:  # the daemon is starting, or stopping
            log.debug("not looked: %s", error)
        except Exception:
            log.exception("looking for models failed")
        finally:
            self._over, self._work = self._begun, None

    async def _look(self) -> None:
        configured = self.configured
        while True:
            settings = configured.settings
            # Without the lock: a disk that hangs holds up nobody who changes something else.
            finds = await asyncio.to_thread(configured.reader.look, settings)
            async with configured.quiet:
                if configured.settings is settings:  # else it was read again meanwhile
                    return await self._take(finds)

    async def _take(self, finds: tuple[Find, ...]) -> None:
        """What was found counts from now on; what runs stays, whatever became of its files."""
        configured = self.configured
        reader, stock = configured.reader, configured.stock
        here = {find.path for find in finds}
        runs = [find for name, find in stock.catalog.finds.items() if configured.runs(name)]
        finds += tuple(find for find in runs if find.path not in here)
        if finds == reader.finds or configured.supervisor.draining:
            return
        before = {find.path for find in reader.finds}
        reader.finds = finds
        catalog, engines = await asyncio.to_thread(self._anew)
        if configured.supervisor.draining:
            return
        configured.refound(catalog, engines)
        news = [f.names[0] for f in finds if f.path not in before and not f.trouble]
        if news:
            more = f" and {len(news) - SHOWN} more" if len(news) > SHOWN else ""
            log.info("found: %s%s", ", ".join(news[:SHOWN]), more)

    def _anew(self) -> tuple[Catalog, Engines]:
        """In a thread: the catalog by what was found, and what would run it."""
        reader, stock = self.configured.reader, self.configured.stock
        own = {n: item for n, item in stock.prepared.items() if n not in reader.served}
        reader.held = files_held(own)
        catalog = reader.catalog(self.configured.settings, stock.catalog)
        return catalog, stock.preparer.engines(reader.finds)

    async def meant(self, name: str) -> None:
        """Look if there is no model of this name; make a found one ready to be served."""
        found = self.configured.named(name)
        if isinstance(found, Problem) or self._doubtful(found.model.name):
            await self.look()
            found = self.configured.named(name)
        if isinstance(found, Prepared):
            await self._ready(found.model.name)

    def _doubtful(self, name: str) -> bool:
        """A found model that nobody has read yet, or that could not be served as it was."""
        find = self.configured.stock.catalog.finds.get(name)
        if find is None:
            return False
        item = self.configured.stock.prepared.get(name)
        broken = find.trouble or (item is not None and item.problem is not None)
        return bool(broken) or find.facts is None

    async def _ready(self, name: str) -> None:
        stock = self.configured.stock
        if name in stock.catalog.found and name not in stock.prepared:
            try:
                await self.configured.ensure(name, None)
            except ProblemError as error:
                log.info("%s: %s", name, error)

    # ------------------------------------------------------------ for requests

    def seek(self, wish: Wish, found: Resolved | Problem, then: Callable[[], None]) -> bool:
        """Whether a look may change what this request's name means; then ``then`` is called once,
        in its time."""
        stock, who = self.configured.stock, wish.principal
        model = stock.catalog.resolve(wish.model, wish.route.value, who.default_model)
        if isinstance(found, Problem) and model is not None:
            if model.name not in stock.catalog.found:
                return False
            if model.name in stock.prepared and not (self._doubtful(model.name) and self._due()):
                return False
        elif not wish.model or foreign(wish.model) or not self._due():
            return False
        self._begin(self._seek(wish, then), "seek")
        return True

    def listed(self) -> None:
        """A program was given the list of models: the next one will have what is new."""
        if self._due():
            self._begin(self.look(), "look")

    def _due(self) -> bool:
        timing = self.configured.settings.timing
        enabled = self.configured.settings.discovery.enabled
        return enabled and self.clock() - self._last >= timing.discovery_pause

    async def _seek(self, wish: Wish, then: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(self.configured.settings.timing.discovery_wait):
                await self._named(wish)
        except TimeoutError:
            log.warning("the disk was not looked at in time for %r", wish.model[:80])
        finally:
            then()

    async def _named(self, wish: Wish) -> None:
        route, default = wish.route.value, wish.principal.default_model
        model = self.configured.stock.catalog.resolve(wish.model, route, default)
        known = model is not None and model.name in self.configured.stock.catalog.found
        if model is None or not known or self._doubtful(model.name):
            await self.look()
            model = self.configured.stock.catalog.resolve(wish.model, route, default)
        if model is not None:
            await self._ready(model.name)

    def _begin(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def begin(self, after: Callable[[], None]) -> None:
        """The first look, beside all else: headers that nobody has read yet. Then ``after``, in a
        thread."""
        if self.configured.settings.discovery.enabled:
            self._begin(self._first(after), "look")

    async def _first(self, after: Callable[[], None]) -> None:
        await self.look()
        await asyncio.to_thread(after)

    async def stop(self) -> None:
        """No more looks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
