"""A conversation as the steps write it; each dialect makes its own of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.proving.values import Call, Subject, Told


@dataclass(frozen=True, slots=True)
class User:
    """``image``: a PNG."""

    text: str
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """What the model said before, with its tool calls."""

    text: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool gave back."""

    call: Call
    text: str


Turn = User | Model | Result


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that is offered. ``schema``: JSON schema of its arguments."""

    name: str
    text: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A streamed request in no dialect. ``limit``: tokens of the answer. ``force``: it must call a
    tool."""

    turns: Sequence[Turn]
    limit: int
    tool: Tool | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one dialect is written and read. ``read`` never raises."""

    name: str  # as in ``ModelView.routes``
    path: str
    write: Callable[[Subject, Wanted], dict[str, Any]]
    read: Callable[[bytes], Told]
