"""Deliberate bugs of the core, to see whether the tests bite.

Each mutant is one small change that somebody could make by mistake; many are bugs that other
programs of this kind have had. Run ``.venv/bin/python tests/core/mutants.py [NAME ...]``: it copies
the core and its tests to a temporary folder, applies one mutant at a time, and runs the tests there
with few seeds (``MODELPORT_SEEDS``, default 10). Exit status 1 if fewer than 90% were killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":  # run as a file: its folder is not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.core.mutations import USUAL, Mutant
from tests.core.mutations_ladder import LADDER
from tests.core.mutations_lane import LANE
from tests.core.mutations_more import MORE

ROOT = Path(__file__).resolve().parents[2]
ENOUGH = 0.9
LIMIT = 120.0  # seconds for one mutant; one that never ends is killed, too


MUTANTS = USUAL + MORE + LADDER + LANE


def apply(mutant: Mutant, core: Path) -> None:
    """Write the mutant's change into a copy of the core. Raises ValueError if it has no place."""
    file = core / mutant.file
    text = file.read_text(encoding="utf-8")
    if (count := text.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.name}: its text occurs {count} times in {mutant.file}")
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def survives(mutant: Mutant) -> bool:
    """Whether the tests of the core let it pass."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        skip = shutil.ignore_patterns("__pycache__", "test_mutants.py")
        for package in ("daemon", "tests"):
            shutil.copytree(ROOT / package / "core", copy / package / "core", ignore=skip)
            (copy / package / "__init__.py").touch()
        apply(mutant, copy / "daemon" / "core")
        command = (
            sys.executable,
            "-m",
            "pytest",
            "tests/core",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
        )
        seeds = os.environ.get("MODELPORT_SEEDS", "10")
        environ = {**os.environ, "MODELPORT_SEEDS": seeds, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=copy, env=environ, capture_output=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode not in (0, 1):  # neither passed nor failed: the run itself is broken
            raise RuntimeError(f"{mutant.name}: pytest could not run\n{done.stdout.decode()}")
        return done.returncode == 0


def main(names: Sequence[str]) -> int:
    """Try all mutants, or those whose name contains one of ``names``."""
    chosen = [m for m in MUTANTS if not names or any(part in m.name for part in names)]
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        alive = 0
        for mutant, passed in zip(chosen, pool.map(survives, chosen), strict=True):
            alive += passed
            print(f"{'SURVIVED' if passed else 'killed  '}  {mutant.name}", flush=True)
    killed = len(chosen) - alive
    print(f"{killed} of {len(chosen)} killed in {time.monotonic() - began:.0f} s")
    return 0 if killed >= ENOUGH * len(chosen) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
