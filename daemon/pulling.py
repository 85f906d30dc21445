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
from daemon.downloads.pulled import Pulled
from daemon.ports import Progress
from daemon.telemetry.bus import Bus

log = logging.getLogger("modelport.pulls")

Step = Progress | ProblemError | None  # None: it is there
STOPPED = Problem(
    Code.SHUTTING_DOWN, "The daemon is stopping.", "What came so far is kept; pull it again.", 5.0
)


@dataclass(slots=True)
class Pulls:
    """The running downloads. ``arrived`` is called when a model's files are there; ``record`` tells
    an uninstall which of them are ours."""

    bus: Bus
    arrived: Callable[[Model], Coroutine[Any, Any, None]]
    changed: Callable[[], None] = lambda: None  # one more, or one less
    record: Pulled | None = None
    _jobs: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _watchers: dict[str, list[asyncio.Queue[Step]]] = field(default_factory=dict)
    _closed: bool = False

    @property
    def busy(self) -> bool:
        """Whether anything is being brought."""
        return bool(self._jobs)

    async def watch(self, model: Model, patience: Patience) -> AsyncIterator[Progress]:
        """Bring a model's files, or watch who already does. Ends when they are there.

        Raises ProblemError.
        """
        if self._closed:
            raise ProblemError(STOPPED)
        queue: asyncio.Queue[Step] = asyncio.Queue()
        self._watchers.setdefault(model.name, []).append(queue)
        if model.name not in self._jobs:
            job = asyncio.create_task(self._run(model, patience), name=f"pull {model.name}")
            self._jobs[model.name] = job
            self.changed()
        try:
            while (step := await queue.get()) is not None:
                if isinstance(step, ProblemError):
                    raise step
                yield step
        finally:
            if queue in self._watchers.get(model.name, []):
                self._watchers[model.name].remove(queue)

    async def _run(self, model: Model, patience: Patience) -> None:
        end: ProblemError | None = ProblemError(STOPPED)  # unless it comes to an end of its own
        try:
            await self._fetch(model, patience)
            await self.arrived(model)
            self.bus.publish("pulled", model.name, f"{model.name} was pulled")
            end = None
        except ProblemError as error:
            end = error
            self.bus.publish("pull_failed", model.name, error.problem.text)
        except Exception as error:
            log.exception("pulling %s failed", model.name)
            end = ProblemError(Problem(Code.PULL_FAILED, f"Pulling {model.name} failed: {error}"))
        finally:
            self._over(model.name, end)

    def _over(self, name: str, end: ProblemError | None) -> None:
        self._jobs.pop(name, None)
        self.changed()
        for queue in self._watchers.pop(name, []):
            queue.put_nowait(end)

    async def _fetch(self, model: Model, patience: Patience) -> None:
        def told(step: PullProgress) -> None:
            facts: dict[str, object] = {"done": step.done, "total": step.total, "file": step.file}
            fraction = step.done / step.total if step.total else None
            progress = Progress(
                "pull",
                step.note or (f"pulling {step.file}" if step.file else "asking the hub"),
                fraction,
                facts,
            )
            for queue in self._watchers.get(model.name, []):
                queue.put_nowait(progress)

        if model.choice is not None:
            self.bus.publish("chosen", model.name, f"{model.name}: {model.choice.text}")
        request = pull_request(model)
        if self.record is not None:
            await asyncio.to_thread(self.record.begin, request)
        await pull(request, told, cache_dir=None, patience=patience)

    async def close(self) -> None:
        """End all and begin no more; what came so far stays and is resumed."""
        self._closed = True
        jobs = dict(self._jobs)
        for job in jobs.values():
            job.cancel()
        await asyncio.gather(*jobs.values(), return_exceptions=True)
        for name in jobs:  # one that was cancelled before it ran has told nobody
            self._over(name, ProblemError(STOPPED))


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
        repo, file = hub_file(value)
        return FileRef(file, repo)
    return FileRef(value)


def hub_file(value: str) -> tuple[str, str]:
    """Repository and file of ``hf:OWNER/REPO/FILE``. Raises ProblemError: CONFIG_INVALID."""
    owner, _, rest = value.removeprefix("hf:").partition("/")
    name, _, file = rest.partition("/")
    if not (owner and name and file):
        text = f"{value!r} names no file of a repository."
        raise ProblemError(Problem(Code.CONFIG_INVALID, text, "Write it as hf:OWNER/REPO/FILE."))
    return f"{owner}/{name}", file
