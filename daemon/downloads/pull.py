"""Pulls: having a model's files on the disk, with progress, going on after a break.

The work is done by a child process (``daemon.downloads.worker``): the hub's client blocks, keeps
threads and cannot be interrupted, a process can. Cancelling a pull ends the child; what has been
fetched is kept, and the next pull goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads import protocol
from daemon.downloads.protocol import (
    Failed,
    FileRef,
    Finished,
    PulledFiles,
    PullProgress,
    PullRequest,
)

__all__ = ["FileRef", "Patience", "PullProgress", "PullRequest", "PulledFiles", "pull"]

log = logging.getLogger(__name__)

GIB = 1 << 30
_LINE = 4 << 20  # the last word lists all files


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a pull tries (seconds).

    ``start``: until the child's first word. ``stall``: without a byte, until it is taken for dead.
    ``retry``: before it goes on; doubled each time that nothing came, ``attempts`` times in all.
    ``steady``: also where nothing has come at all yet (else that is told at once, to who waits).
    ``stall`` and ``retry`` are settings; ``start`` (a Python that imports from a cold disk) and
    ``reap`` (from TERM to KILL) concern a program of ours and are none.
    """

    start: float = 60.0
    stall: float = 240.0
    retry: float = 5.0
    retry_max: float = 300.0
    attempts: int = 6
    steady: bool = False
    reap: float = 5.0


@dataclass(slots=True)
class _Seen:
    """What is known of all attempts together."""

    progress: PullProgress = field(default_factory=PullProgress)
    moved: bool = False  # bytes came in this attempt
    ever: bool = False  # bytes came in any attempt


class _LostError(Exception):
    """An attempt broke off in a way that another may not."""

    def __init__(self, problem: Problem, note: str) -> None:
        super().__init__(problem.text)
        self.problem = problem
        self.note = note


async def pull(
    request: PullRequest,
    on_progress: Callable[[PullProgress], None],
    *,
    cache_dir: Path | None,
    patience: Patience | None = None,
    reserve: int = GIB,
    env: Mapping[str, str] | None = None,
) -> PulledFiles:
    """Have all files of ``request`` in ``cache_dir`` (None: the hub's own cache of this user).

    Without the network it is enough that they are there already. ``reserve``: bytes of the disk
    that must stay free. ``env`` is added to the child's environment
    (``HF_ENDPOINT``, ``HF_TOKEN`` …).

    Raises:
        ProblemError: PULL_FAILED, or NOT_PULLED if the hub is out of reach and files are missing.
    """
    request.check()
    patience = patience or Patience()
    seen = _Seen()
    idle_tries, pause = 0, patience.retry

    def tell(progress: PullProgress) -> None:
        if progress.fetched:
            seen.moved = seen.ever = True
        seen.progress = progress
        on_progress(progress)

    while True:
        seen.moved = False
        try:
            return await _attempt(request, tell, cache_dir, patience, reserve, env or {})
        except _LostError as lost:
            if seen.moved:
                idle_tries, pause = 0, patience.retry
            idle_tries += 1
            asked = lost.problem.retry_after  # by the hub, which is there
            steady = seen.ever or patience.steady or asked is not None
            if not steady or idle_tries >= patience.attempts:
                raise ProblemError(lost.problem) from None
            log.info("pull of %s: %s", request.repo, lost.note)
            wait = max(pause, min(asked or 0.0, patience.retry_max))
            note = f"{lost.note}; going on in {wait:.0f} s"
            on_progress(replace(seen.progress, note=note))
        await asyncio.sleep(wait)
        pause = min(2 * pause, patience.retry_max)


async def _attempt(
    request: PullRequest,
    tell: Callable[[PullProgress], None],
    cache_dir: Path | None,
    patience: Patience,
    reserve: int,
    env: Mapping[str, str],
) -> PulledFiles:
    """One child process from start to end. Raises ProblemError and _LostError."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "daemon.downloads.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", **env},
        limit=_LINE,
        start_new_session=True,  # Ctrl-C in a terminal is the daemon's to handle
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    complaints = asyncio.create_task(_tail(child.stderr), name="pull-stderr")
    try:
        job = protocol.Job(request, str(cache_dir) if cache_dir else None, reserve)
        with contextlib.suppress(ConnectionError):  # it died: its output tells more
            child.stdin.write(protocol.write(job))
            await asyncio.wait_for(child.stdin.drain(), patience.start)
        return await _listen(child.stdout, tell, request, patience, complaints)
    finally:
        await _end(child, complaints, patience.reap)


async def _listen(
    lines: asyncio.StreamReader,
    tell: Callable[[PullProgress], None],
    request: PullRequest,
    patience: Patience,
    complaints: asyncio.Task[str],
) -> PulledFiles:
    """Follow the child to its last word."""
    silence = patience.start
    while True:
        try:
            line = await asyncio.wait_for(lines.readline(), silence)
        except TimeoutError:
            raise _stalled(request, silence) from None
        silence = patience.stall
        if not line:
            tail = ""
            with contextlib.suppress(TimeoutError):  # somebody of its own may hold the pipe open
                tail = await asyncio.wait_for(complaints, patience.reap)
            raise ProblemError(_died(request, tail))
        try:
            word = protocol.read_word(line)
        except msgspec.DecodeError as error:
            raise ProblemError(_died(request, f"{error}: {line[:200]!r}")) from None
        match word:
            case Finished(files):
                return files
            case Failed():
                if word.lost:
                    crowded = word.retry_after is not None
                    note = "the hub asks to wait" if crowded else "the connection was lost"
                    raise _LostError(word.problem, note)
                raise ProblemError(word.problem)
            case protocol.Progressed(progress):
                tell(progress)


async def _end(
    child: asyncio.subprocess.Process, complaints: asyncio.Task[str], reap: float
) -> None:
    """No child is left behind, whatever ended the attempt."""
    if child.stdin is not None:
        child.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        child.kill()  # safe at any moment, see the worker
    try:
        await asyncio.wait_for(child.wait(), reap)
        await asyncio.wait_for(complaints, reap)
    except TimeoutError:
        log.warning("the download process %d did not end in %.0f s", child.pid, reap)
    finally:
        complaints.cancel()


async def _tail(stream: asyncio.StreamReader, size: int = 4096) -> str:
    """The end of what a process complains of."""
    kept = b""
    while piece := await stream.read(65536):
        kept = (kept + piece)[-size:]
    return kept.decode(errors="replace").strip()


def _stalled(request: PullRequest, seconds: float) -> _LostError:
    note = f"no byte for {seconds:.0f} s"
    return _LostError(
        Problem(
            Code.PULL_FAILED,
            f"The download of {request.repo} stands still: {note}.",
            "Check the network, then pull again: it goes on where it ended.",
            facts={"repo": request.repo},
        ),
        note,
    )


def _died(request: PullRequest, tail: str) -> Problem:
    last = tail.splitlines()[-1] if tail else "without a word"
    return Problem(
        Code.PULL_FAILED,
        f"The download process of {request.repo} ended early: {last[:200]}.",
        "Pull again; if it ends again, the daemon's log tells more.",
        facts={"repo": request.repo, "output": tail},
    )
