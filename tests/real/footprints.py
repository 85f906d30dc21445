"""What real engines say that they allot, beside what we estimate."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from daemon.core.units import MIB
from daemon.engines.base import Engine, Installed, Running
from daemon.engines.memory_log import allotted
from daemon.engines.pricing import Site, price
from daemon.weights.describe import describe
from daemon.weights.footprint import Breakdown, Shape, estimate
from tests.models.net import write
from tests.models.zoo import ZOO
from tests.real.starting import make_plan, started

MOST_UNDER = 0.98
MOST_OVER = 1.05
# Between the two builds lies one or two hidden states per token: nothing beside real weights, and
# up to a tenth of a model of 10 MB. We price the dearer one.
MOST_OVER_TINY = 1.12


@dataclass(frozen=True)
class Row:
    """One comparison, in bytes: weights, caches and computation together."""

    name: str
    source: str
    ours: int
    theirs: int

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    @property
    def good(self) -> bool:
        """Never under by more than 2%, nor over by more than 5% (a tiny model: 12%)."""
        most = MOST_OVER_TINY if self.theirs < 128 * MIB else MOST_OVER
        return MOST_UNDER <= self.ratio <= most

    def __str__(self) -> str:
        return (
            f"{self.name:18} {self.source:13} {self.ours / MIB:10.2f} {self.theirs / MIB:10.2f} "
            f"{self.ratio:7.4f}{'' if self.good else '  !'}"
        )


def counted(parts: Breakdown) -> int:
    """The part of an estimate that an engine tells of when it is ready."""
    return parts.weights + parts.kv + parts.compute


def fitted(program: Path, path: Path, ctx: int, *flags: str) -> tuple[int, ...]:
    """Model, context and compute buffers by ``llama-fit-params``, which loads nothing. It cuts to
    whole MiB: half of one is added to each that is there."""
    argv = [str(program), "-m", str(path), "-c", str(ctx), "-fitp", "on", *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r"^Host (\d+) (\d+) (\d+)", done.stdout, re.MULTILINE)
    assert match is not None, done.stdout + done.stderr
    return tuple(
        int(number) * MIB + (MIB // 2 if number != "0" else 0) for number in match.groups()
    )


def published(program: Path, folder: Path, name: str, ctx: int = 32768) -> Row:
    """The model ``name`` in its published size: 0.1 to 104 GiB of weights that are a hole."""
    path = write(ZOO[name][0](), folder / f"{name}.gguf")
    # fit-params reserves logits for every token, as servers of before June 2026 did.
    ours = estimate(describe(path), Shape(ctx, all_logits=True))
    theirs = sum(fitted(program, path, ctx))
    path.unlink()
    return Row(name, "fit-params", counted(ours), theirs)


def tiny(
    engine: Engine, installed: Installed, name: str, folder: Path,
    way: Running | None = None, *args: str,
) -> Row:  # fmt: skip
    """The tiny model of this kind, served for real: what the engine logged."""
    path = write(ZOO[name][1](), folder / f"{name}.gguf", dtype="f16", context=8192)
    weights = describe(path)
    way = way or Running("way", 4096, 1)
    words = ("-t", "1", *args)
    plan = make_plan(folder, path, running=way, kind=weights.kind, args=words)
    with started(engine, installed, plan, folder) as server:
        assert server.until_ready().status == 200, server.log()
        told = allotted(server.log().splitlines())
    path.unlink()
    assert told.complete()
    site = Site(engine.name, installed.version, weights.kind, words)
    (ours,) = price(weights, way, site).values()
    theirs = told.of("model", "KV", "RS", "compute")
    return Row(name, engine.name, counted(ours), theirs)
