"""Pulls as jobs: one per model, any number of watchers, going on when they leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from daemon.config.model import Model
from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads.pull import FileRef, Patience, PullProgress, PullRequest, pull
from daemon.ports import Progress
from daemon.telemetry.bus import Bus

log = logging.getLogger("modelport.pulls")

Step = Progress | ProblemError | None


@dataclass(slots=True)
class Pulls:
    """The running downloads. ``arrived`` is called when a model's files are there."""

    bus: Bus
    arrived: Callable[[Model], Coroutine[Any, Any, None]]
    _jobs: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _watchers: dict[str, list[asyncio.Queue[Step]]] = field(default_factory=dict)

    async def watch(self, model: Model, stall: float) -> AsyncIterator[Progress]:
        """Bring a model's files, or watch who already does. Ends when they are there.

        ``stall``: seconds without a byte after which it is given up. Raises ProblemError.
        """
        queue: asyncio.Queue[Step] = asyncio.Queue()
        self._watchers.setdefault(model.name, []).append(queue)
        if model.name not in self._jobs:
            job = asyncio.create_task(self._run(model, stall), name=f"pull {model.name}")
            self._jobs[model.name] = job
        try:
            while (step := await queue.get()) is not None:
                if isinstance(step, ProblemError):
                    raise step
                yield step
        finally:
            if queue in self._watchers.get(model.name, []):
                self._watchers[model.name].remove(queue)

    async def _run(self, model: Model, stall: float) -> None:
        end: ProblemError | None = None
        try:
            await self._fetch(model, stall)
            await self.arrived(model)
            self.bus.publish("pulled", model.name, f"{model.name} was pulled")
        except ProblemError as error:
            end = error
            self.bus.publish("pull_failed", model.name, error.problem.text)
        except Exception as error:
            log.exception("pulling %s failed", model.name)
            end = ProblemError(Problem(Code.PULL_FAILED, f"Pulling {model.name} failed: {error}"))
        finally:
            del self._jobs[model.name]
            for queue in self._watchers.pop(model.name, []):
                queue.put_nowait(end)

    async def _fetch(self, model: Model, stall: float) -> None:
        def told(step: PullProgress) -> None:
            facts: dict[str, object] = {"done": step.done, "total": step.total, "file": step.file}
            fraction = step.done / step.total if step.total else None
            progress = Progress("pull", step.note or f"pulling {step.file}", fraction, facts)
            for queue in self._watchers.get(model.name, []):
                queue.put_nowait(progress)

        await pull(pull_request(model), told, cache_dir=None, patience=Patience(stall=stall))

    async def close(self) -> None:
        """End all; what came so far stays and is resumed."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


def pull_request(model: Model) -> PullRequest:
    """What a model needs of the hub: its weights, and companions that lie in repositories."""
    assert model.repo is not None
    return PullRequest(
        model.repo,
        quant=model.quant,
        file=model.file,
        mmproj=_ref(model.mmproj),
        draft=_ref(model.draft),
        template=_ref(model.template),
    )


def _ref(value: str | None) -> FileRef | None:
    """``hf:OWNER/REPO/FILE``, or a file beside the weights; a path on this disk is none."""
    if value is None or value == "embedded" or value.startswith(("/", "~", ".")):
        return None
    if value.startswith("hf:"):
        owner, name, file = value.removeprefix("hf:").split("/", 2)
        return FileRef(file, f"{owner}/{name}")
    return FileRef(value)
