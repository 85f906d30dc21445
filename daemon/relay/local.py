"""What the front answers itself, at once: health, a word of welcome, the models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.core.problems import Problem
from daemon.dialects import models
from daemon.dialects.fields import encode
from daemon.ports import LeasePort
from daemon.relay import faces
from daemon.relay.body import Body
from daemon.relay.doors import MAIN, Door
from daemon.relay.heads import Head
from daemon.relay.routes import Local, Place, listed

if TYPE_CHECKING:
    from daemon.relay.exchange import Exchange

Plain = tuple[int, list[tuple[str, str]], bytes]


def answer(
    place: Place,
    head: Head,
    leases: LeasePort,
    exchange: Exchange,
    door: Door = MAIN,
    sent: Body = b"",
) -> Plain:
    """Status, headers and body of a local path at ``door``, to which the client has ``sent`` a
    body. Never waits for a load."""
    status, kind, body = 200, "application/json", b""
    match place.local:
        case Local.HEALTH:
            body = b'{"status":"ok"}'
        case Local.MODELS:
            body = faces.listing(door, head, leases)
        case Local.MODEL:
            card = leases.card(door.model or place.rest)
            if isinstance(card, Problem):
                return exchange.rendered(card)
            body = models.single(card)
        case Local.FACE:
            said = faces.answer(door, head, sent, leases)
            if isinstance(said, Problem):
                status, headers, body = exchange.rendered(said)
                # Ollama's clients print what they find under `error`.
                return status, headers, encode({"error": said.text}) if faces.plain(head) else body
            kind, body = said
        case _:
            kind, body = "text/plain; charset=utf-8", _WELCOME
    headers = [("Content-Type", kind), ("x-request-id", exchange.request_id)]
    return status, headers, body


_WELCOME = (
    "modelport: one port for every language model of this machine.\n\n"
    + "".join(f"{method:5}{path}\n" for method, path in listed())
    + "GET  /v1/models/{id}\nANY  /upstream/{model}/{path}\n"
    + "".join(f"{method:5}{path}\n" for method, path in faces.everywhere())
    + "\nOn this machine: ctl status\n"
).encode()
