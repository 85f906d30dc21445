"""Who is asking: one value on every request, from the front to the queue and the history."""

from __future__ import annotations

import math
from dataclasses import dataclass

USE = "use"  # may talk to models
CONTROL = "control"  # may also load, unload, reload, read logs


@dataclass(frozen=True, slots=True)
class Principal:
    """A checked identity and what it may do (scopes). ``priority``: of its requests in queues.

    The rest is of keys alone. ``models``: names and patterns of those that it may use (none: all);
    ``default_model``: in place of the daemon's own; ``at_once`` and ``per_minute``: requests (0:
    no limit); ``until``: when it ends, in Unix seconds.
    """

    name: str
    scopes: frozenset[str]
    priority: int = 0
    keyed: bool = False
    models: tuple[str, ...] = ()
    default_model: str = ""
    at_once: int = 0
    per_minute: int = 0
    until: float = math.inf

    def may(self, scope: str) -> bool:
        return scope in self.scopes

    @property
    def limited(self) -> bool:
        """Are its requests counted?"""
        return bool(self.at_once or self.per_minute)


LOCAL = Principal("local", frozenset({USE}))
"""Anyone on this machine who reaches the loopback address: may use models, no more."""

ANYONE = Principal("anyone", frozenset({USE}))
"""Anyone at all, where the user has said so in so many words (``--insecure-no-auth``)."""

OWNER = Principal("owner", frozenset({USE, CONTROL}))
"""Whoever can open the private control socket: file permissions are the password."""
