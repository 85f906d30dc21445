#!/usr/bin/env python3
"""An engine that floods its log: ``flooding.py KIND PROGRAM …`` runs the program with a child at
its side which writes to the same output as fast as it can, for ever.

KIND: ``short`` lines, ``lines`` of 200 KB, ``endless`` (no line ever ends), ``colours`` (lines of
control characters).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

KINDS = {
    "short": b"slot update_slots: id  0 | task 17 | n_tokens = 2048, progress = 0.42\n" * 900,
    "lines": b"y" * 200_000 + b"\n",
    "endless": b"x" * 65536,
    "colours": "\x1b[31mred\x1b[0m\x07 \u202egnp.exe \x9b2J\x00 hf_canaryCANARYcanary01\n".encode()
    * 900,
}


def main() -> None:
    """Never returns: the child floods, the parent becomes the program."""
    data = KINDS[sys.argv[1]]
    parent = os.getpid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
        while os.getppid() == parent:
            left = memoryview(data)
            while left:
                left = left[os.write(2, left) :]
        os._exit(0)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
