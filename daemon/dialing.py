"""Connecting to a unix socket from the event loop."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from typing import Final

# A listener whose queue is full: Linux says so (connect(2), EAGAIN) and does not wait as TCP does;
# neither do event loops (asyncio takes it for a connection). macOS says the same as of nobody.
_FULL: Final = errno.EAGAIN
_PAUSE: Final = 0.002  # seconds; a server takes a connection from its queue in far less
_REFUSED_FOR: Final = 0.1 if sys.platform == "darwin" else 0.0  # seconds


async def dial(path: str) -> socket.socket:
    """A connected socket that does not block; the caller's to close. While the listener's queue is
    full it waits: under the caller's deadline. OSError: nobody listens there."""
    patience = time.monotonic() + _REFUSED_FOR
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            sock.connect(path)
        except OSError as error:
            sock.close()
            refused = error.errno == errno.ECONNREFUSED and time.monotonic() < patience
            if error.errno != _FULL and not refused:
                raise
        except BaseException:
            sock.close()
            raise
        else:
            return sock
        await asyncio.sleep(_PAUSE)
