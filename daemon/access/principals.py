"""Who is asking: one value on every request, from the front to the queue and the history."""

from __future__ import annotations

from dataclasses import dataclass

USE = "use"  # may talk to models
CONTROL = "control"  # may also load, unload, reload, read logs


@dataclass(frozen=True, slots=True)
class Principal:
    """A checked identity and what it may do (scopes). ``priority``: of its requests in queues."""

    name: str
    scopes: frozenset[str]
    priority: int = 0

    def may(self, scope: str) -> bool:
        return scope in self.scopes


LOCAL = Principal("local", frozenset({USE}))
"""Anyone on this machine who reaches the loopback address: may use models, no more."""

OWNER = Principal("owner", frozenset({USE, CONTROL}))
"""Whoever can open the private control socket: file permissions are the password."""
