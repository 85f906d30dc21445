"""The same head again: a client on one connection sends the same one over and over, but for its
Content-Length. What was parsed and decided for the last one is then used again.

Only for heads that are equal to the byte outside the digits of that one line, on the same
connection, door and under the same guard, so nothing can differ that the decision rests on: a
guard holds the keys, too, and each change of these makes a new one.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from daemon.relay.admission import Admitted
from daemon.relay.doors import MAIN, Door
from daemon.relay.guard import Guard
from daemon.relay.heads import Head
from daemon.relay.limits import Limits

_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]{1,18})\r\n", re.IGNORECASE)


class Known(NamedTuple):
    """An admitted head, and the bytes by which it is known again."""

    key: bytes
    guard: Guard
    door: Door
    head: Head
    admitted: Admitted
    until: float | None  # Unix seconds: then its key is over


def _key(raw: bytes) -> tuple[bytes, int] | None:
    """``raw`` without the digits of its length, and these. A head that had none there before can
    not be taken for one that lost them: it has no match."""
    match = _LENGTH.search(raw)
    if match is None:
        return None
    start, end = match.span(1)
    return raw[:start] + raw[end:], int(match[1])


def learn(
    raw: bytes, guard: Guard, head: Head, admitted: Admitted, door: Door = MAIN
) -> Known | None:
    """What to keep of an admitted head."""
    found = _key(raw)
    if found is None:
        return None
    until = admitted.principal.until
    ends = None if until == math.inf else until
    return Known(found[0], guard, door, head, admitted, ends)


def again(known: Known, raw: bytes, guard: Guard, limits: Limits, door: Door = MAIN) -> bool:
    """Is ``raw`` that head again? Then ``known.head`` has its length, and may be used."""
    found = _key(raw)
    if found is None or found[0] != known.key or known.guard is not guard or known.door != door:
        return False
    if found[1] > limits.body_bytes:
        return False
    if known.until is not None and guard.clock() >= known.until:
        return False
    known.head.length = found[1]
    return True
