"""Folders that a launcher has while it runs; what killed ones left goes with the next."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from control_api.commands.daemon import process_alive


@contextmanager
def own_folder(base: Path, prefix: str) -> Iterator[Path]:
    """A fresh one in ``base``, for us alone and gone afterwards. Its name has our pid in it."""
    sweep(base, prefix)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(base: Path, prefix: str) -> None:
    """Take away those of this user whose launcher is gone. ``base`` may be everybody's."""
    for old in base.glob(f"{prefix}*-*"):
        pid = old.name.removeprefix(prefix).partition("-")[0]
        with suppress(OSError):
            about = old.lstat()
            ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()
            if ours and pid.isdecimal() and not process_alive(int(pid)):
                shutil.rmtree(old, ignore_errors=True)
