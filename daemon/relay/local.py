"""What the front answers itself, at once: health, a word of welcome, the models."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from daemon.access.principals import CONTROL
from daemon.core.problems import Code, Problem
from daemon.dialects import models, ollama_answer
from daemon.dialects.fields import bad, encode, read
from daemon.ports import LeasePort, ModelCard
from daemon.relay import faces
from daemon.relay.admission import Admitted
from daemon.relay.body import Body
from daemon.relay.doors import Door
from daemon.relay.heads import Head
from daemon.relay.routes import Local, listed

if TYPE_CHECKING:
    from daemon.relay.exchange import Exchange

Plain = tuple[int, list[tuple[str, str]], bytes]


def answer(
    admitted: Admitted, head: Head, body: Body, leases: LeasePort, exchange: Exchange, door: Door
) -> Plain:
    """Status, headers and body of a local path at ``door``. Never waits for a load. Raises
    ProblemError."""
    place, who = admitted.place, admitted.principal
    kind, said = "application/json", b""
    match place.local:
        case Local.HEALTH:
            said = b'{"status":"ok"}'
        case Local.MODELS:
            said = faces.listing(door, head, leases, who)
        case Local.MODEL:
            card = leases.card(door.model or place.rest, "", who)
            if isinstance(card, Problem):
                return exchange.rendered(card)
            said = models.single(card)
        case Local.TAGS:
            present = [card for card in faces.cards(door, leases, who) if card.present]
            said = ollama_answer.tags(present)
        case Local.RUNNING:
            said = ollama_answer.running(faces.cards(door, leases, who), time.time())
        case Local.VERSION:
            said = ollama_answer.version()
        case Local.SHOW | Local.PULL | Local.DELETE | Local.FACE:
            if place.local is Local.FACE:
                found = faces.answer(door, head, leases, who)
            else:
                found = _ollama(admitted, body, leases, door)
            if isinstance(found, Problem):
                return exchange.rendered(found)
            kind, said = found
        case _:
            kind, said = "text/plain; charset=utf-8", _WELCOME
    headers = [("Content-Type", kind), ("x-request-id", exchange.request_id)]
    return 200, headers, said


def _ollama(
    admitted: Admitted, body: Body, leases: LeasePort, door: Door
) -> tuple[str, bytes] | Problem:
    """What Ollama's clients ask of one model: it is shown, and pulled if it is there already."""
    asked = read(body)
    name = door.model or asked.get("model") or asked.get("name")
    if not isinstance(name, str):
        raise bad("model: allowed is the name of a model.")
    local = admitted.place.local
    card = leases.card(name, "", admitted.principal)
    here = isinstance(card, ModelCard) and card.present
    if local is Local.DELETE or (local is Local.PULL and not here):
        verb = "Deleting" if local is Local.DELETE else "Pulling"
        command = "rm" if local is Local.DELETE else "pull"
        hint = f"On this machine: ctl {command} {name}"
        if not admitted.principal.may(CONTROL):
            code = Code.FORBIDDEN if admitted.principal.keyed else Code.UNAUTHORIZED
            return Problem(code, f"{verb} needs a key with the scope control.", hint)
        return Problem(Code.FORBIDDEN, f"{verb} is not done over this path.", hint)
    if isinstance(card, Problem):
        return card
    if local is Local.SHOW:
        return "application/json", ollama_answer.show(card)
    done = encode({"status": "success"})
    if asked.get("stream") is False:
        return "application/json", done
    return "application/x-ndjson", encode({"status": "pulling manifest"}) + b"\n" + done + b"\n"


_WELCOME = (
    "modelport: one port for every language model of this machine.\n\n"
    + "".join(f"{method:7}{path}\n" for method, path in listed())
    + "GET    /v1/models/{id}\nANY    /upstream/{model}/{path}\n\n"
    + "On this machine: ctl status\n"
).encode()
