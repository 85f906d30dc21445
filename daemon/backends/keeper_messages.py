"""What a daemon and a keeper say to each other, as values: orders, events, hello.

The words of the wire stand at the head of ``keeper.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from daemon.backends import keeper as program
from daemon.core.problems import Code, Problem, ProblemError


class KeeperError(ProblemError):
    """A keeper could not be started, reached or understood. (The engine has events of its own.)"""

    def __init__(self, message: str, hint: str = "", code: Code = Code.INTERNAL) -> None:
        super().__init__(Problem(code, message, hint))


# --- what is asked -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrderFile:
    """A private file (0600) that the engine needs and that lives as long as its keeper."""

    path: Path
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Everything that a keeper must know. Paths are absolute; times in seconds, sizes in bytes."""

    backend: str
    generation: int
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    socket: Path
    record: Path
    log: Path
    log_max_bytes: int
    log_keep: int
    mode: Literal["foreground", "service"]
    grace: float
    stop_grace: float
    cwd: Path | None = None
    pattern: str | None = None
    needles: tuple[str, ...] = ()
    pattern_keep: int = 8192
    kill_grace: float = 2.0
    connect_grace: float = 10.0
    lost_grace: float = 1.0
    files: tuple[OrderFile, ...] = ()
    leaves: tuple[Path, ...] = ()
    mark: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict, repr=False)

    def encode(self) -> bytes:
        """The order as the line that the keeper reads."""
        fields = {"protocol": program.PROTOCOL, **asdict(self)}
        return json.dumps(fields, default=os.fspath).encode() + b"\n"


# --- what is told --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lines:
    """New output lines that match the order's pattern; at a connection, all that were kept."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogTrouble:
    """Of its output ``dropped`` bytes in all could not be written; ``errno``: why not (None: it can
    be written again)."""

    dropped: int
    errno: int | None


@dataclass(frozen=True, slots=True)
class ExecFailed:
    """The engine could not be run; trying again will not help, unless ``errno`` passes."""

    errno: int
    text: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The engine ended: ``status`` as in subprocess, ``at`` in monotonic seconds, all kept lines.

    ``time``: Unix seconds (None: an older keeper does not say). ``stopped``: by its keeper.
    ``last``: the line that it said last.
    What it started may still live and hold memory: :class:`Gone` follows.
    """

    status: int
    at: float
    lines: tuple[str, ...]
    time: float | None = None
    stopped: bool = False
    last: str = ""


@dataclass(frozen=True, slots=True)
class Gone:
    """The engine and everything that it started are dead and reaped: the memory is free."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended before :class:`Gone`: read the record, adopt again or reap."""


KeeperEvent = Lines | LogTrouble | ExecFailed | Exited | Gone | Lost


@dataclass(frozen=True, slots=True)
class Hello:
    """What a keeper says of itself. ``pid`` and ``start`` are None if the engine could not be run.

    ``start`` is a token of the kernel's start time (``keeper.start_token``); sizes in bytes.
    """

    protocol: int
    backend: str
    generation: int
    facts: Mapping[str, Any]
    keeper_pid: int
    pid: int | None
    start: str | None
    argv: tuple[str, ...]
    log_bytes: int
    log_dropped: int
    lines: tuple[str, ...]
    error: ExecFailed | None
    exit: Exited | None
    gone: bool
    log_errno: int | None = None
    stopping: bool = False  # it is being ended, by an order that was given before
    mark: str = ""  # of this start (see ``marks``); an older keeper has none

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Hello:
        """KeeperError if it is not one, or of another protocol."""
        if message.get("protocol") != program.PROTOCOL:
            raise KeeperError(
                f"the keeper speaks protocol {message.get('protocol')!r}, not {program.PROTOCOL}"
            )
        try:
            error, ended = message["error"], message["exit"]
            return cls(
                **{name: message[name] for name in _HELLO_PLAIN},
                argv=tuple(message["argv"]),
                lines=tuple(message["lines"]),
                error=None if error is None else ExecFailed(error["errno"], error["text"]),
                exit=None if ended is None else exited(ended),
                log_errno=message.get("log_errno"),
                stopping=bool(message.get("stopping")),  # not told by an older keeper
                mark=str(message.get("mark") or ""),
            )
        except (KeyError, TypeError) as error:
            raise KeeperError(f"the keeper's hello lacks something: {error!r}") from error

    def events(self) -> list[KeeperEvent]:
        """What was told before this connection, told again."""
        told: list[KeeperEvent] = [Lines(self.lines)] if self.lines else []
        if self.log_dropped or self.log_errno is not None:
            told.append(LogTrouble(self.log_dropped, self.log_errno))
        told += [event for event in (self.error, self.exit) if event is not None]
        return [*told, Gone()] if self.gone else told


_HELLO_PLAIN = (
    *("protocol", "backend", "generation", "facts", "keeper_pid", "pid", "start"),
    *("log_bytes", "log_dropped", "gone"),
)


def exited(message: Mapping[str, Any]) -> Exited:
    """From the message ``exit``, or what a record keeps of it. KeyError, TypeError."""
    ended = message.get("time")
    return Exited(
        message["status"],
        message["at"],
        tuple(message["lines"]),
        float(ended) if isinstance(ended, int | float) else None,
        message.get("stopped") is True,
        str(message.get("last", "")),  # an older keeper does not say
    )
