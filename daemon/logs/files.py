"""The daemon's own log file: rotated, private, one safe line per record, and never in the way."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from daemon.logs.lines import clip, escape, json_line
from daemon.logs.redact import redact as _redact

FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
DATE = "%Y-%m-%dT%H:%M:%S"
Form = Literal["text", "json"]


def rotate(path: Path, keep: int) -> None:
    """Move ``path`` to ``path.1``, that to ``path.2``, and so on; ``keep`` old files stay.

    An empty file stays where it is: it would only push out an old one. OSError if it cannot be.
    """
    try:
        about = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(about.st_mode) and about.st_size == 0:
        return
    for number in range(keep, 0, -1):
        newer = path if number == 1 else Path(f"{path}.{number - 1}")
        with contextlib.suppress(FileNotFoundError):
            newer.replace(f"{path}.{number}")
    if keep < 1:
        path.unlink()


class RotatingHandler(logging.Handler):
    """Writes records to ``path``; see :func:`open_log`. ``dropped`` counts lines that were lost."""

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        keep: int,
        redact: Callable[[str], str] = _redact,
        form: Form = "text",
    ) -> None:
        super().__init__()
        self.path, self.max_bytes, self.keep, self.form = path, max_bytes, keep, form
        self.dropped = 0
        self._redact = redact
        self._lost = 0  # since the last line that could be written
        self._torn = False  # the last line is only half there
        self._fd = -1
        self._size = 0
        self._plain = logging.Formatter(FORMAT, DATE)
        self._plain.converter = time.gmtime
        self.setFormatter(self._plain)
        self._write(b"", fresh=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. A full disk costs the line, never the caller."""
        try:
            data = self._line(record)
            if self._lost:
                data = self._lost_line(record) + data
        except Exception:  # noqa: BLE001 (a log call with wrong arguments: logging's own way)
            self.handleError(record)
            return
        if self._write(data):
            self._lost = 0
        else:
            self._lost += 1
            self.dropped += 1

    def _line(self, record: logging.LogRecord) -> bytes:
        if self.form == "text":
            return clip(escape(self._redact(self.format(record)))).encode("utf-8") + b"\n"
        fields = {"level": record.levelname, "logger": record.name}
        fields["message"] = self._redact(record.getMessage())
        if record.exc_info:
            fields["traceback"] = self._redact(self._plain.formatException(record.exc_info))
        return self._json(record, fields)

    def _lost_line(self, record: logging.LogRecord) -> bytes:
        text = f"{self._lost} log lines before this one could not be written"
        if self.form == "text":
            return f"({text})\n".encode()
        return self._json(record, {"level": "WARNING", "logger": __name__, "message": text})

    def _json(self, record: logging.LogRecord, fields: dict[str, str]) -> bytes:
        at = f"{self._plain.formatTime(record, DATE)}.{int(record.msecs):03d}Z"
        return json_line({"time": at, **fields}).encode("utf-8") + b"\n"

    def close(self) -> None:
        """Close the file; the next record would open it again."""
        self._shut()
        super().close()

    def _write(self, data: bytes, *, fresh: bool = False) -> bool:
        try:
            if fresh or (self._size and self._size + len(data) > self.max_bytes):
                self._shut()
                with contextlib.suppress(OSError):
                    rotate(self.path, self.keep)
            if self._fd < 0:
                self._open()
            if self._torn:
                data = b"\n" + data
            written = os.write(self._fd, data)
        except OSError:
            return False
        self._size += written
        if written:
            self._torn = written < len(data)
        return written == len(data)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        self._fd = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
        if self._size >= self.max_bytes:  # it could not be moved away: better lost than endless
            self._shut()
            raise OSError(errno.EFBIG, "the log cannot be rotated")

    def _shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = -1, 0


def lost_lines() -> int:
    """How many lines the log of this process has lost so far."""
    found = [h for h in logging.getLogger().handlers if isinstance(h, RotatingHandler)]
    return sum(handler.dropped for handler in found)


def open_log(
    path: Path | str,
    max_bytes: int,
    keep: int,
    redact: Callable[[str], str] = _redact,
    form: Form = "text",
) -> RotatingHandler:
    """A handler for the daemon's own file: mode 0600, rotated now and at ``max_bytes``.

    ``keep`` old files stay as ``.1``, ``.2``, …; lines are redacted, escaped, and cut at 8 KiB. As
    ``json`` a line is an object: time, level, logger, message and, where there is one, traceback.
    Never raises for a missing folder or a full disk: see ``RotatingHandler.dropped``.
    """
    return RotatingHandler(Path(path), max_bytes, keep, redact, form)
