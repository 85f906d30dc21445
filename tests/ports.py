"""Ports for servers that a test starts in a moment."""

from __future__ import annotations

import random
import socket

# Below what the system hands out for port 0 and for clients (from 32768 on Linux, 49152 on macOS):
# nobody beside us is given it between now and the moment it is bound.
_OURS = range(20_000, 32_000)
_dice = random.SystemRandom()  # no seed: runs side by side may have the same one


def free_port() -> int:
    """A free loopback port for TCP."""
    for port in _dice.sample(_OURS, 50):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("fifty ports were taken")
