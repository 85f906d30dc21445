"""Archives of a release unpacked into one folder, with nothing in it that reaches out of it."""

from __future__ import annotations

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from daemon.core.problems import Code, Problem, ProblemError

PROGRAM: Final = "llama-server"
# RuntimeError: of a zip that is encrypted, or packed in a way that is not known here.
_NOT_WHOLE: Final = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError,
    ValueError, RuntimeError,
)  # fmt: skip
_MAX: Final = 16 << 30  # bytes unpacked: an archive that has more is not what it says


def unpack(archives: Sequence[Path], folder: Path) -> Path:
    """Unpack the first, and the libraries of the others beside its program. The program's path.

    Raises ProblemError (PULL_FAILED) for what is no such archive; OSError.
    """
    inner = folder / "files"
    _extract(archives[0], inner)
    program = next((path for path in sorted(inner.rglob(PROGRAM)) if path.is_file()), None)
    if program is None:
        raise _bad(archives[0], f"there is no {PROGRAM} in it")
    program.chmod(0o755)
    for archive in archives[1:]:
        beside = folder / "beside"
        _extract(archive, beside)
        for path in sorted(beside.rglob("*")):
            if path.is_file() or path.is_symlink():
                target = program.parent / path.name
                if not target.exists():
                    path.replace(target)
        shutil.rmtree(beside)
    return program


def _extract(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    try:
        if archive.name.endswith(".zip"):
            _unzip(archive, folder)
        else:
            _untar(archive, folder)
    except _NOT_WHOLE as error:
        raise _bad(archive, str(error) or type(error).__name__) from None


def _untar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive, "r:*") as tar:
        members = tar.getmembers()
        if sum(member.size for member in members) > _MAX:
            raise ValueError("it unpacks to more than any build has")
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, members, filter="data")
            return
        raise ValueError("this Python is too old to unpack it safely; take 3.11.4 or newer")


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        if sum(entry.file_size for entry in file.infolist()) > _MAX:
            raise ValueError("it unpacks to more than any build has")
        file.extractall(folder)  # noqa: S202 - which drops "..", drives and leading slashes


def _bad(archive: Path, why: str) -> ProblemError:
    what = f"{archive.name} cannot be unpacked: {why}."
    return ProblemError(Problem(Code.PULL_FAILED, what, "Try another version, or --from compile."))
