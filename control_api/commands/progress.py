"""Showing the steps of a load: one moving line on a terminal, one line per step elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final

from control_api.commands.output import Out, clean, duration, size, width

_FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PLAIN_FRAMES: Final = "|/-\\"
_BEAT: Final = 0.1  # seconds between two frames
_BAR: Final = 24  # columns


class Steps:
    """Shows steps on stderr, so that stdout has the result alone. Use it as a context manager."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self._moving = out.err.isatty() and not out.json
        self._quiet = out.json
        self._started = self._step_started = time.monotonic()
        self._step = self._text = self._figures = ""
        self._fraction: float | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        encoding = (getattr(out.err, "encoding", None) or "ascii").lower()
        self._frames = _FRAMES if encoding.startswith("utf") else _PLAIN_FRAMES

    @property
    def elapsed(self) -> float:
        """Seconds since the first step could have begun."""
        return time.monotonic() - self._started

    def __enter__(self) -> Steps:
        if self._moving:
            self._thread = threading.Thread(target=self._spin, name="spinner", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._write("\r\x1b[K")
        self._finish_step()

    def show(self, line: Mapping[str, Any]) -> None:
        """Take one line of progress."""
        step, text = str(line.get("step", "")), str(line.get("text", ""))
        with self._lock:
            if (step, text) != (self._step, self._text) and not self._same_transfer(step):
                self._finish_step()
                self._step_started = time.monotonic()
            self._step, self._text = step, text
            self._figures = transfer(line.get("facts") or {})
            fraction = line.get("fraction")
            self._fraction = float(fraction) if isinstance(fraction, (int, float)) else None

    def note(self, text: str) -> None:
        """A line for people that stays, above the moving one."""
        with self._lock:
            if self._moving:
                self._write("\r\x1b[K")
            self._out.note(text)

    def _same_transfer(self, step: str) -> bool:
        # a pull tells its text anew with every fraction: that is one step, not many
        return step == self._step and self._fraction is not None

    def _finish_step(self) -> None:
        if self._quiet or self._step in {"", "ready", "done", "failed"}:
            return
        took = duration(time.monotonic() - self._step_started)
        erase = "\r\x1b[K" if self._moving else ""
        self._write(f"{erase}  {self._step.ljust(8)} {clean(self._text)}  {took}\n")
        self._step = ""

    def _spin(self) -> None:
        turn = 0
        while not self._end.wait(_BEAT):
            turn += 1
            with self._lock:
                if self._step:
                    self._write("\r\x1b[K" + self._frame(turn))

    def _frame(self, turn: int) -> str:
        frame = self._frames[turn % len(self._frames)]
        done = ""
        if self._fraction is not None:
            filled = round(min(1.0, max(0.0, self._fraction)) * _BAR)
            done = f" [{'#' * filled}{'.' * (_BAR - filled)}] {self._fraction:4.0%}"
        took = self._figures or duration(time.monotonic() - self._step_started)
        begin, end = f"{frame} {self._step.ljust(8)} ", f"{done}  {took}"
        text, columns = clean(self._text), _columns()
        if self._figures:  # a long name of a file gives way to them
            text = _short(text, max(12, columns - width(begin) - width(end)))
        return _fit(f"{begin}{text}{end}", columns)

    def _write(self, text: str) -> None:
        self._out.err.write(text)
        self._out.err.flush()


class Notice:
    """What is being looked at, on one line of a terminal that goes away by itself."""

    def __init__(self, out: Out) -> None:
        self._err = out.err if out.err.isatty() and not out.json else None

    def show(self, text: str) -> None:
        if self._err is not None:
            self._err.write(f"\r... {text}\x1b[K")
            self._err.flush()

    @contextlib.contextmanager
    def lasting(self, text: str) -> Iterator[None]:
        """Shown as long as this lasts."""
        self.show(text)
        try:
            yield
        finally:
            self.clear()

    def clear(self) -> None:
        if self._err is not None:
            self._err.write("\r\x1b[K")
            self._err.flush()


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns - 1


def _fit(text: str, columns: int) -> str:
    while width(text) > columns:
        text = text[:-1]
    return text


def _short(text: str, columns: int) -> str:
    """The text, its middle left out where it is too long: names of files differ at their ends."""
    if width(text) <= columns:
        return text
    keep = max(1, (columns - 1) // 2)
    return f"{text[:keep]}…{text[-keep:]}"


def transfer(facts: Mapping[str, Any]) -> str:
    """How far a download is: ``7.2 of 17.2 GiB  31.0 MiB/s  5m 31s left``; "" where it is none."""
    done, total = facts.get("done"), facts.get("total")
    if not isinstance(done, int) or not isinstance(total, int) or total <= 0:
        return ""
    whole = size(total)
    at = size(done)
    at = at.partition(" ")[0] if at.partition(" ")[2] == whole.partition(" ")[2] else at
    words = [f"{at} of {whole}"]
    rate, left = facts.get("rate"), facts.get("left")
    if isinstance(rate, int | float) and isinstance(left, int | float):
        words += [f"{size(int(rate))}/s", f"{duration(left)} left"]
    return "  ".join(words)


def footprint(facts: Mapping[str, Any]) -> str:
    """The footprint in the facts of a ``ready`` step: bytes, or bytes per pool; "" if unknown."""
    value = facts.get("footprint")
    if isinstance(value, Mapping):
        value = sum(count for count in value.values() if isinstance(count, int))
    return size(value) if isinstance(value, int) and value > 0 else ""
