"""Our estimates beside what llama.cpp allots: ``python -m tests.bench.bench_footprint``.

Published sizes by ``llama-fit-params`` (nothing is loaded: their weights are a hole in a file of a
few MB), tiny ones by the logs of a llama-server and of xllamacpp. Weights, caches and computation
together, in MiB; the last column is ours / theirs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from daemon.core.problems import ProblemError
from daemon.engines.base import Engine, Installed
from daemon.engines.llama_server import LlamaServer
from daemon.engines.xllamacpp import Xllamacpp
from tests.models.zoo import ZOO
from tests.real.footprints import Row, published, tiny

ROOT = Path(__file__).resolve().parents[2]


def engines(server: Path) -> Iterator[tuple[Engine, Installed]]:
    """Those that are here."""
    for engine, settings in ((LlamaServer(), {"path": str(server)}), (Xllamacpp(), {})):
        try:
            yield engine, engine.find(settings, os.environ)
        except ProblemError as error:
            print(f"! {error.problem.text}")


def rows(server: Path, names: list[str], folder: Path) -> Iterator[Row]:
    """One comparison after the other."""
    fit = server.with_name("llama-fit-params")
    if fit.exists():
        for name in names:
            yield published(fit, folder, name)
    for found in engines(server):
        for name in names:
            yield tiny(*found, name, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given = os.environ.get("MODELPORT_TEST_LLAMA_SERVER", ROOT / ".llama-server" / "llama-server")
    parser.add_argument("--llama-server", type=Path, default=Path(given))
    parser.add_argument("names", nargs="*", help="of the models; all without")
    args = parser.parse_args()
    print(f"{'model':18} {'engine':13} {'ours':>10} {'theirs':>10} {'ratio':>7}")
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(args.llama_server, args.names or list(ZOO), Path(folder)):
            print(row, flush=True)
            found.append(row)
    ratios = [row.ratio for row in found]
    if ratios:
        bad = sum(not row.good for row in found)
        print(f"{len(found)} comparisons, {min(ratios):.4f} to {max(ratios):.4f}, {bad} beyond")


if __name__ == "__main__":
    main()
