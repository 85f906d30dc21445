"""The machine as it is now, from whichever sources this platform has."""

from __future__ import annotations

import sys
from collections.abc import Collection
from functools import lru_cache

import psutil

from daemon.machine.amd import AmdSource
from daemon.machine.base import RAM, UNIFIED, Cards, MachineFacts, Shared, Source, unify
from daemon.machine.linux import LinuxSource
from daemon.machine.macos import MacSource
from daemon.machine.nvidia import NvidiaSource


@lru_cache(maxsize=1)
def cards() -> tuple[Cards, ...]:
    """The sources of GPUs with drivers of their own, found once. A Mac's is part of MacSource."""
    if sys.platform == "darwin":
        return ()
    nvidia = NvidiaSource()
    # Beside NVIDIA's cards AMD's are numbered on.
    return (nvidia, AmdSource(first=len(nvidia.pools())))


@lru_cache(maxsize=1)
def sources() -> tuple[Source, ...]:
    """The sources of this platform, found once."""
    if sys.platform == "darwin":
        return (MacSource(),)
    return (*cards(), LinuxSource())


@lru_cache(maxsize=1)
def shared() -> Shared | None:
    """The GPU that works in main memory, where no card has memory of its own. Found once, so that
    the names of the pools stay."""
    if any(source.pools() for source in cards()):
        return None
    return next((found for source in cards() if (found := source.shared())), None)


def facts() -> MachineFacts:
    """All pools of this machine. May take a second at the first call: call it in a thread."""
    pools = unify((pool for source in sources() for pool in source.pools()), shared())
    return MachineFacts(pools, psutil.virtual_memory().total, sys.platform)


def free() -> dict[str, int]:
    """Free bytes by pool as now, in under a millisecond."""
    found = {name: amount for source in sources() for name, amount in source.free().items()}
    if shared() is not None and RAM in found:
        found[UNIFIED] = found.pop(RAM)
    return found


def on_cards(pids: Collection[int]) -> dict[str, int]:
    """Bytes that processes hold on GPUs together, by pool; of a shared GPU under ``unified``."""
    return {k: v for source in cards() for k, v in source.of_processes(pids).items()}


def computing(pids: Collection[int]) -> bool:
    """Whether a GPU works for one of these processes just now. False also where none tells: then
    the processor's time, which feeds a GPU, must do."""
    return any(source.computing(pids) for source in cards() if isinstance(source, NvidiaSource))
