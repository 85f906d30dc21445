"""A port for a test that has to know it before somebody listens there."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port() -> int:
    """A free port of the loopback that the system gives to nobody by itself.

    One that was asked for as port 0 and closed again may be another test's connection a moment
    later, also of a run beside this one. By the system's chance: pytest-randomly begins the
    common one anew for each test, and runs with the same seed would choose alike.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_000), 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("fifty ports were taken")
