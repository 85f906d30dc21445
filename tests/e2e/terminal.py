"""A client on a terminal of its own: keys are pressed, and what it shows is read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable

from tests.e2e.house import ROOT
from tests.e2e.programs import Desk


class Terminal:
    """A client on a terminal of its own; what it shows is read all the time."""

    def __init__(self, desk: Desk, *words: str) -> None:
        self.shown = b""
        self.pid, self.side = pty.fork()
        if self.pid == 0:
            os.chdir(desk.project)
            argv = [sys.executable, "-P", str(ROOT / "ctl.py"), *words]
            os.execve(argv[0], argv, {**desk.environ, "TERM": "xterm-256color"})
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))

    def until(self, what: Callable[[], object], seconds: float = 60.0) -> None:
        """Read on until it is so."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.text[-3000:]
            self.read(0.1)

    def settle(self) -> None:
        """Read on until nothing has moved for a second: keys that come too soon are dropped."""
        last = time.monotonic()
        while time.monotonic() - last < 1.0:
            if self.read(0.1):
                last = time.monotonic()

    def read(self, seconds: float) -> bool:
        """Whether something was shown within that time."""
        if not select.select([self.side], [], [], seconds)[0]:
            return False
        before = self.text
        self.shown += os.read(self.side, 65536)
        return self.text != before

    @property
    def text(self) -> str:
        """What was shown, without colours and places, and without blanks."""
        return self.plain(self.shown)

    @staticmethod
    def plain(shown: bytes) -> str:
        bare = re.sub(rb"\x1b(?:\[[0-9;?<>=]*[A-Za-z]|[\]P].*?(?:\x07|\x1b\\)|.)", b"", shown)
        return re.sub(r"\s+", "", bare.decode("utf-8", "replace"))

    def press(self, keys: str) -> None:
        os.write(self.side, keys.encode())

    def say(self, line: str) -> None:
        """Type a line, and enter it once all of it is shown."""
        typed = len(self.shown)
        self.press(line)
        self.until(lambda: re.sub(r"\s", "", line) in self.plain(self.shown[typed:]))
        self.settle()
        self.press("\r")

    def told(self, what: str, times: int = 1, seconds: float = 60.0) -> None:
        """Read on until it was shown so often, blanks aside; then until all is quiet."""
        wanted = re.sub(r"\s", "", what)
        self.until(lambda: self.text.count(wanted) >= times, seconds)
        self.settle()

    def trust(self) -> None:
        """Claude Code's first question, about the folder: its first answer is no. Then its own
        screen."""
        self.told("Enter to confirm")
        self.press("\x1b[B")  # down
        self.settle()
        self.press("\r")
        self.told("effort")

    def close(self) -> int:
        """Its exit status: it ends by itself."""
        with contextlib.suppress(OSError):  # Linux says EIO where the other side is closed
            self.until(lambda: False, 30)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        """Whatever became of it."""
        os.close(self.side)
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            os.waitpid(self.pid, 0)
