"""What the front answers itself, at once: health, a word of welcome, the models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.core.problems import Problem
from daemon.dialects import models
from daemon.ports import LeasePort
from daemon.relay.heads import Head
from daemon.relay.routes import Local, Place, listed

if TYPE_CHECKING:
    from daemon.relay.exchange import Exchange

Plain = tuple[int, list[tuple[str, str]], bytes]


def answer(place: Place, head: Head, leases: LeasePort, exchange: Exchange) -> Plain:
    """Status, headers and body of a local path. Never waits for a load."""
    status, kind, body = 200, "application/json", b""
    match place.local:
        case Local.HEALTH:
            body = b'{"status":"ok"}'
        case Local.MODELS:
            # Claude Code asks with ?limit=…; it shows only ids of Anthropic's making.
            body = models.listing(leases.cards(), discovery="limit=" in head.query)
        case Local.MODEL:
            card = leases.card(place.rest)
            if isinstance(card, Problem):
                return exchange.rendered(card)
            body = models.single(card)
        case _:
            kind, body = "text/plain; charset=utf-8", _WELCOME
    headers = [("Content-Type", kind), ("x-request-id", exchange.request_id)]
    return status, headers, body


_WELCOME = (
    "modelport: one port for every language model of this machine.\n\n"
    + "".join(f"{method:5}{path}\n" for method, path in listed())
    + "GET  /v1/models/{id}\nANY  /upstream/{model}/{path}\n\n"
    + "On this machine: ctl status\n"
).encode()
