from __future__ import annotations
from collections.abc import Callable


def agent_turns(runs: int, target: Callable[..., None]) -> None:
    raise NotImplementedError
