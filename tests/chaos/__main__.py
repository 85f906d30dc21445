"""``python -m tests.chaos --minutes 10 --seed N``: exit code 1 when anything was wrong."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys

from tests.chaos.play import play
from tests.e2e.stage import folder


def main() -> int:
    """Play, and say what came of it."""
    options = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    options.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    options.add_argument("--seed", type=int, help="the dice; they fall alike, the world does not")
    options.add_argument("--clients", type=int, default=20, help="how many ask at once (20)")
    options.add_argument("--keep", help="a folder to which the daemon's logs are copied")
    given = options.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    with folder() as place:
        report = play(
            place,
            seed=seed,
            seconds=given.minutes * 60,
            clients=given.clients,
            say=lambda line: print(line, flush=True),
        )
        if given.keep:
            shutil.copytree(place / "logs", given.keep, dirs_exist_ok=True)
            shutil.copy(place / "stderr", given.keep)
    print("\n".join(report.lines()), flush=True)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
