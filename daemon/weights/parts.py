"""Which bytes of a GGUF model lie where: before its layers, in each, in the head behind them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from daemon.weights.facts import LayerBytes, Parts

MAX_LAYER: Final = 4096  # of a name that is believed; hostile files may not grow the table further

_LAYER: Final = re.compile(r"blk\.([0-9]{1,4})\.")
_HEAD: Final = ("output.", "output_norm.", "cls.")


@dataclass(slots=True)
class Tally:
    """The sums of one file, a tensor at a time."""

    dense: dict[int, int] = field(default_factory=dict)
    experts: dict[int, int] = field(default_factory=dict)
    embedding: int = 0
    head: int = 0
    tied: bool = True  # no output matrix was seen
    gated: bool = False  # a feed-forward layer has a gate
    rows: int = 0  # of the token embedding: the size of the vocabulary
    elements: int = 0  # numbers in all tensors: what people call parameters

    def add(self, name: str, shape: tuple[int, ...], amount: int) -> None:
        """Count the tensor ``name`` of ``amount`` bytes."""
        self.elements += math.prod(shape)
        match = _LAYER.match(name)
        if match is not None and (index := int(match[1])) < MAX_LAYER:
            table = self.experts if "_exps." in name else self.dense
            table[index] = table.get(index, 0) + amount
            # The first projection of some is both; a router has "gate" in its name too.
            self.gated = self.gated or ".ffn_gate." in name or ".ffn_gate_up" in name
        elif name.startswith(_HEAD):
            self.head += amount
            self.tied = self.tied and not name.startswith("output.")
        else:
            self.embedding += amount
            if name == "token_embd.weight" and len(shape) > 1:
                self.rows = shape[1]


def joined(tallies: Iterable[Tally], *, predicting: int, count: int) -> Parts:
    """The parts of a model of ``count`` layers from the tallies of its files; the last
    ``predicting`` layers are passed over by the engine."""
    dense: dict[int, int] = {}
    experts: dict[int, int] = {}
    embedding = head = 0
    tied = True
    for tally in tallies:
        for mine, theirs in ((dense, tally.dense), (experts, tally.experts)):
            for index, amount in theirs.items():
                mine[index] = mine.get(index, 0) + amount
        embedding += tally.embedding
        head += tally.head
        tied = tied and tally.tied
    first_passed = count - predicting
    layers = tuple(
        LayerBytes(dense.get(i, 0), experts.get(i, 0), loaded=i < first_passed)
        for i in range(count)
    )
    return Parts(layers, embedding, 0 if tied else head)
