"""What a port is: open for every model, bound to one, or known to programs as another server's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Face(StrEnum):
    """Whose port programs take this for: the words of ``server.also``'s ``as``."""

    OPENAI = "openai"
    OLLAMA = "ollama"
    LMSTUDIO = "lmstudio"
    LLAMA_SERVER = "llama-server"


@dataclass(frozen=True, slots=True)
class Door:
    """One way in. ``model`` (if not empty) answers every request that comes this way, whatever
    the client names."""

    face: Face = Face.OPENAI
    model: str = ""


MAIN = Door()
"""The fixed port's."""


class Entry:
    """What the connections of one port share: its door as it is now, and whether it was closed
    (then none of them is kept after its answer)."""

    __slots__ = ("closed", "door")

    def __init__(self, door: Door = MAIN) -> None:
        self.door = door
        self.closed = False
