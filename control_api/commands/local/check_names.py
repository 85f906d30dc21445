"""What ``ctl doctor`` says of names: other programs called as ours are, and files put aside."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from control_api.commands.local.checks import Check

PROGRAMS: Final = ("ctl", "modelport", "modelportd")
SHOWN: Final = 3  # names that are told one by one


def check_programs(
    own: Path = Path(sys.prefix) / "bin", path: str | None = None
) -> Iterator[Check]:
    """What runs when somebody types one of our names. ``own``: where ours lie; ``path``: as PATH.

    ``uv tool``, pipx and Homebrew put links on PATH: a link to ours is ours.
    """
    ours = [name for name in PROGRAMS if (own / name).exists()]
    if not ours:
        yield Check("commands", "ok", "run from a checkout, not installed")
        return
    found = {name: shutil.which(name, path=path) for name in ours}
    missing = [name for name in ours if found[name] is None]
    foreign = {n: at for n, at in found.items() if at and _real(Path(at)) != _real(own / n)}
    if missing:
        fix = f"Add {own} to PATH, or: uv tool update-shell (pipx ensurepath)."
        yield Check("commands", "warn", f"not on PATH: {', '.join(missing)}", fix)
    for name, at in foreign.items():
        other = "modelport" if name == "ctl" and "modelport" not in foreign else own / name
        text = f"`{name}` is another program: {at} comes first on PATH"
        yield Check("commands", "warn", text, f"Use `{other}`, or put {own} first on PATH.")
    if not missing and not foreign:
        yield Check("commands", "ok", f"{', '.join(ours)} are those of {own}")


def check_leftovers(folders: Iterable[Path]) -> Iterator[Check]:
    """Files that were broken and put aside: what was in them is not in force."""
    for folder in folders:
        try:
            found = sorted(entry.name for entry in folder.glob("*.corrupt-*"))
        except OSError:
            continue  # said by the check of the folder itself
        if found:
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            text = f"{folder}: {', '.join(found[:SHOWN])}{more} could not be read and was put aside"
            fix = f"Report it if you did not edit it, then: rm {folder}/*.corrupt-*"
            yield Check("state", "warn", text, fix)


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return path
