"""What llama.cpp says in its log that it has allotted: text in, bytes out. Pure.

At ``-lv 4`` each buffer has a line of its own, here without times and levels::

    load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
    llama_context:        CPU  output buffer size =     0.19 MiB
    llama_kv_cache:        CPU KV buffer size =    45.00 MiB
    llama_memory_recurrent:  CPU RS buffer size =     0.28 MiB
    sched_reserve:        CPU compute buffer size =    15.51 MiB

A window cache has a KV line beside the ordinary one, and so has a draft model; a compute buffer
that is reserved anew replaces the one before of the same context.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from daemon.core.units import MIB

MAX_LINES: Final = 20_000  # of one start that are looked at; real ones have a few hundred

_BUFFER: Final = re.compile(
    r"(\w+): +([A-Za-z][\w.()\[\]:-]*) +(model|KV|RS|compute|output|LoRA) buffer size = +"
    r"([0-9]{1,9}\.[0-9]{1,4}) MiB"
)
_NUMBER: Final = re.compile(r"(?:CUDA|ROCm|MUSA|Vulkan|SYCL|HIP|CANN)([0-9]{1,3})")


@dataclass(slots=True)
class Allotted:
    """Bytes by the engine's name of a device (``CPU_Mapped``, ``CUDA0``) and kind of buffer:
    model, KV, RS (recurrent states), compute, output, LoRA."""

    buffers: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.buffers.values())

    def of(self, *kinds: str) -> int:
        """Bytes of these kinds on all devices."""
        return sum(amount for (_, kind), amount in self.buffers.items() if kind in kinds)

    def by_pool(self, pools: Sequence[str]) -> dict[str, int]:
        """Bytes of each of our pools."""
        sums: dict[str, int] = {}
        for (device, _), amount in self.buffers.items():
            pool = pool_of(device, pools)
            sums[pool] = sums.get(pool, 0) + amount
        return sums

    def complete(self) -> bool:
        """Whether the load was told of to its end: the last thing is a compute buffer."""
        return bool(self.of("model")) and bool(self.of("compute"))


def allotted(lines: Iterable[str]) -> Allotted:
    """What one start has allotted; of the log's lines those of that start only."""
    context = 0
    reserved: dict[tuple[int, str], int] = {}  # a compute buffer by context and device
    sums: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines):
        if number >= MAX_LINES:
            break
        match = _BUFFER.search(line[:500])
        if match is None:
            continue
        source, device, kind, mebibytes = match.groups()
        amount = round(float(mebibytes) * MIB)
        context += kind == "output"  # each context begins with its output buffer
        if kind == "compute":
            own = -1 if source != "sched_reserve" else context  # a projector's stands alone
            reserved[own, device] = amount
        else:
            sums[device, kind] = sums.get((device, kind), 0) + amount
    for (_, device), amount in reserved.items():
        sums[device, "compute"] = sums.get((device, "compute"), 0) + amount
    return Allotted(sums)


def pool_of(device: str, pools: Sequence[str]) -> str:
    """Our name of the memory that a device of the engine's log lies in.

    ``CUDA_Host`` and the CPU's own are main memory; GPUs are taken in the engine's order, which is
    ours unless the user reorders them by the environment.
    """
    if "unified" in pools:
        return "unified"
    match = _NUMBER.match(device)
    if match is not None and f"gpu{match[1]}" in pools:
        return f"gpu{match[1]}"
    return "ram"


def versus(estimated: Mapping[str, int], found: Mapping[str, int]) -> float:
    """How far an estimate was off in the pool where it matters most: 0.2 is a fifth too high, -0.2
    a fifth too low. 0 where nothing was found."""
    pool = max(found, key=lambda name: found[name], default=None)
    if pool is None or not found[pool]:
        return 0.0
    return estimated.get(pool, 0) / found[pool] - 1.0
