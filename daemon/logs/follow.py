"""Reading log files that are being written and rotated: the way out for ``ctl logs`` and the API.

The files ``path.N`` … ``path.1``, ``path`` are read as one stream of bytes. Every line that leaves
is redacted, escaped and cut at 8 KiB. No file is held open between two looks.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

from daemon.logs.lines import LINE_CAP, clip, escape
from daemon.logs.redact import redact as _redact

CHUNK = 1 << 18  # bytes per read
TAIL_LIMIT = 16 << 20  # bytes that a tail reads at most
HELD = 2 * LINE_CAP  # bytes of a line in the making: more than is shown, so that no secret is cut
MARK = 64  # bytes by which a place in a file is recognised
POLL = 0.25  # seconds between two looks at a file: what a reader does not feel, and costs nothing
FILES = 100  # rotated files that are looked at


def tail(path: Path | str, lines: int, redact: Callable[[str], str] = _redact) -> list[str]:
    """The last ``lines`` lines, from older files too if the newest is short. Blocks.

    An unfinished last line counts. No file is no lines.
    """
    texts, cursor = _tail(Path(path), lines)
    if cursor.partial and lines > 0:
        texts = [*texts, cursor.partial][-lines:]
    return [_clean(text, redact) for text in texts]


async def follow(
    path: Path | str,
    *,
    lines: int = 0,
    poll: float = POLL,
    redact: Callable[[str], str] = _redact,
) -> AsyncGenerator[str, None]:
    """The last ``lines`` lines, then each new one once it is finished; for ever.

    Survives rotation (also several between two looks), truncation, and a file that is not there
    yet. Looks every ``poll`` seconds.
    """
    file = Path(path)
    texts, cursor = await asyncio.to_thread(_tail, file, lines)
    while True:
        for text in texts:
            yield _clean(text, redact)
        before = (cursor.inode, cursor.offset)
        texts = await asyncio.to_thread(_advance, file, cursor)
        if before == (cursor.inode, cursor.offset):
            await asyncio.sleep(poll)


@dataclass(slots=True)
class _Cursor:
    """How far the stream was read: which file (inode 0: none yet), how many bytes of it."""

    inode: int = 0
    offset: int = 0
    before: bytes = b""  # the bytes of that file just before
    partial: bytes = b""  # the line in the making


def _clean(line: bytes, redact: Callable[[str], str]) -> str:
    return clip(escape(redact(line.removesuffix(b"\r").decode("utf-8", "replace"))))


def _files(path: Path) -> list[tuple[Path, os.stat_result]]:
    """The files of the stream that are there, newest first."""
    found = []
    for number in range(FILES):
        file = path if number == 0 else Path(f"{path}.{number}")
        try:
            about = file.lstat()
        except OSError:
            if number > 0:
                break
            continue  # in the middle of a rotation
        if stat.S_ISREG(about.st_mode):
            found.append((file, about))
    return found


def _tail(path: Path, lines: int) -> tuple[list[bytes], _Cursor]:
    """Finished lines, and where the stream goes on."""
    files = _files(path)
    if not files:
        return [], _Cursor()
    data, left = b"", min(TAIL_LIMIT, (lines + 1) * HELD)
    for file, about in files:
        end = about.st_size
        while end > 0 and left > 0 and data.count(b"\n") <= lines:
            size = min(CHUNK, end, left)
            data = (_read(file, about.st_ino, end - size, size) or b"") + data
            end -= size
            left -= size
    *whole, partial = data.split(b"\n")
    if left == 0:
        whole = whole[1:]  # its beginning was not read: half a secret would not be recognised
    inode, size = files[0][1].st_ino, files[0][1].st_size
    before = _read(files[0][0], inode, max(0, size - MARK), min(MARK, size)) or b""
    cursor = _Cursor(inode, size, before, partial[:HELD])
    return [line[:HELD] for line in whole[-lines:]] if lines > 0 else [], cursor


def _advance(path: Path, cursor: _Cursor) -> list[bytes]:
    """Move on by at most one chunk of one file; the lines that this finished."""
    files = _files(path)
    at = _place(files, cursor)
    while at is not None and (at == len(files) or files[at][1].st_size <= cursor.offset):
        if at == 0:
            return []
        at -= 1
        cursor.inode, cursor.offset, cursor.before = files[at][1].st_ino, 0, b""
    data = None if at is None else _read(files[at][0], cursor.inode, cursor.offset, CHUNK)
    if data is None:
        return []
    cursor.offset += len(data)
    cursor.before = (cursor.before + data)[-MARK:]
    *whole, rest = data.split(b"\n")
    if whole:
        whole[0] = (cursor.partial + whole[0][:HELD])[:HELD]
        cursor.partial = b""
    cursor.partial = (cursor.partial + rest[:HELD])[:HELD]
    return [line[:HELD] for line in whole]


def _place(files: list[tuple[Path, os.stat_result]], cursor: _Cursor) -> int | None:
    """Index of the cursor's file; their number if it is gone; None if it moved just now."""
    for index, (file, about) in enumerate(files):
        if about.st_ino != cursor.inode:
            continue
        if about.st_size < cursor.offset:  # truncated
            cursor.offset, cursor.before, cursor.partial = 0, b"", b""
            return index
        # the number of a deleted file is soon another file's: the bytes read last must be there
        length = len(cursor.before)
        found = _read(file, cursor.inode, cursor.offset - length, length)
        if found is None:
            return None
        return index if found == cursor.before else len(files)
    return len(files)


def _read(file: Path, inode: int, offset: int, size: int) -> bytes | None:
    """None if ``file`` is another one by now: the next look will find it by its new name."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.pread(fd, size, offset) if os.fstat(fd).st_ino == inode else None
    finally:
        os.close(fd)
