"""Ports for servers that a test starts in a moment."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket

# Below what the system hands out for port 0 and for clients (from 32768 on Linux, 49152 on macOS):
# nobody beside us is given one between now and the moment it is bound. In an order of this
# process's own: pytest-randomly gives runs side by side the same seeds.
_ports = itertools.cycle(random.SystemRandom().sample(range(20_000, 32_000), 12_000))


def free_port() -> int:
    """A free loopback port for TCP, and none that was given lately."""
    for port in itertools.islice(_ports, 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a thousand ports are taken")
