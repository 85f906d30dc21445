"""From a head to a decision, and from a body to a model's name. Pure but for asking names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from daemon.access.principals import Principal
from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects.errors import Dialect
from daemon.dialects.manner import Outline
from daemon.ports import Edits, LeasePort, ModelCard, Route
from daemon.relay import body as bodies
from daemon.relay import faces, forms, orders, routes, wire
from daemon.relay.body import Body, Parts
from daemon.relay.doors import MAIN, Door
from daemon.relay.edits import EDITED, edited
from daemon.relay.guard import Guard, Peer, check_content_type
from daemon.relay.heads import Head
from daemon.relay.limits import Limits
from daemon.relay.routes import BodyKind, Place, Refused

_CONVERSATION_FIELDS = (b"x-claude-code-session-id", b"session-id", b"x-session-id")
_CLIENT_LIMIT = 160  # characters
_KEYED = "key "  # how a client with a key is called, and no other
_ASKED_HEADERS = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z, ]{1,2048}")


@dataclass(slots=True)
class Admitted:
    """A head that may go on. ``client`` is whoever is queued fairly."""

    place: Place
    dialect: Dialect
    principal: Principal
    client: str
    cors: bytes
    upstream_path: str


@dataclass(slots=True)
class Answered:
    """A head that is answered now: with a problem, or (OPTIONS, problem None) with ``allow``."""

    problem: Problem | None
    dialect: Dialect
    allow: str = ""
    cors: bytes = b""
    lines: bytes = b""
    late: bool = False  # not at once: it comes from where too many such requests came from


def admit(
    head: Head, peer: Peer, guard: Guard, limits: Limits, door: Door = MAIN
) -> Admitted | Answered:
    """Guard first, on every path; then the route; then what the head says of the body."""
    verdict = guard.decide(head, peer)
    if isinstance(verdict, Problem):
        late = verdict.code is Code.RATE_LIMITED
        return Answered(verdict, routes.dialect_of(head.path), late=late)
    origin = head.first.get(b"origin")
    cors = wire.cors_lines(origin) if origin is not None and guard.allows_origin(origin) else b""
    if head.method == "OPTIONS" and (
        allow := faces.allowed(head.path, door) or routes.allowed(head.path)
    ):
        asked = head.first.get(b"access-control-request-headers", b"content-type")
        lines = wire.preflight_lines(asked) if cors and _ASKED_HEADERS.fullmatch(asked) else b""
        return Answered(None, Dialect.OPENAI, allow, cors, lines)
    place = faces.resolve(head.method, head.path, door) or routes.resolve(head.method, head.path)
    if door.model and isinstance(place, Place) and place.body is BodyKind.RAW:
        place = _elsewhere(door, place)
    if isinstance(place, Refused):
        return Answered(place.problem, place.dialect, place.allow, cors)
    problem = check_content_type(head) if place.body is BodyKind.JSON else None
    try:
        bodies.check_body_head(head, limits)
    except ProblemError as error:
        problem = error.problem
    if problem is not None:
        return Answered(problem, place.dialect, cors=cors)
    client = f"{_KEYED}{verdict.name}" if verdict.keyed else fairness_key(head, peer)
    return Admitted(place, place.dialect, verdict, client, cors, place.upstream)


def _elsewhere(door: Door, place: Place) -> Refused:
    text = f"This port is bound to {door.model}: there is no /upstream/ here."
    hint = "Ask on the fixed port (server.port)."
    return Refused(Problem(Code.ROUTE_NOT_FOUND, text, hint), place.dialect)


def fairness_key(head: Head, peer: Peer) -> str:
    """Who is queued fairly: a conversation if the client names it, else address and program."""
    first = head.first
    for name in _CONVERSATION_FIELDS:
        value = first.get(name)
        if value and not value.startswith(_KEYED.encode()):
            return value.decode("latin-1")[:_CLIENT_LIMIT]
    agent = first.get(b"user-agent", b"").decode("latin-1")
    return f"{peer.address} {agent}"[:_CLIENT_LIMIT]


def named(
    admitted: Admitted, head: Head, body: Body, leases: LeasePort, door: Door = MAIN
) -> tuple[str, Outline | None]:
    """The model's name, as the client wrote it ("" where it may be left out, and is); at a door
    with a model of its own that one. And the body's outline, where that was seen on the way.

    Raises ProblemError. For ``/upstream/`` it also settles the path on the backend.
    """
    place = admitted.place
    if place.body is BodyKind.RAW:
        return _named_in_path(admitted, head, leases), None
    content_type = head.first.get(b"content-type", b"")
    if place.body is BodyKind.FORM and forms.is_form(content_type):
        found = forms.find_model(body, content_type, required=not door.model)
        return door.model or (found.model if found is not None else ""), None
    if door.model:
        return door.model, bodies.outline_of(body) if place.shape is not None else None
    return _named_in_body(admitted, body, leases)


def _named_in_body(admitted: Admitted, body: Body, leases: LeasePort) -> tuple[str, Outline | None]:
    place, outline = admitted.place, None
    if place.order is not None:
        return orders.ordered(body), None
    if place.shape is not None:
        found, outline = bodies.outlined(body)
    else:
        found = bodies.peek(body, required=False)
    name = found.model
    if not name and not place.bare:
        route = place.route.value if place.route is not None else ""
        meant = leases.card("", route, admitted.principal)
        # A default model answers who names none; while we start, nobody knows yet.
        if isinstance(meant, Problem) and meant.code is not Code.MODEL_UNAVAILABLE:
            bodies.peek(body)
    return name, outline


def _named_in_path(admitted: Admitted, head: Head, leases: LeasePort) -> str:
    splits, who = routes.upstream_splits(admitted.place.rest), admitted.principal
    known = (one for one in splits if isinstance(leases.card(one[0], "", who), ModelCard))
    model, path = next(known, splits[0])
    problem = routes.refuse_upstream(head.method, path)
    if problem is None and (not model or not model.isprintable()):
        problem = Problem(Code.MODEL_MISSING, "A model's name must follow /upstream/.")
    if problem is not None:
        raise ProblemError(problem)
    admitted.upstream_path = path
    return model


def rewritten(
    admitted: Admitted,
    head: Head,
    body: Body,
    model: str | None,
    edits: Edits | None,
    *,
    given: bool = False,
) -> Parts:
    """``body`` with the name that the backend knows (None: it is that already), and edited.
    ``given``: the client may have named none, and it is put in all the same.

    Raises ProblemError where there is something to edit and it is no JSON object.
    """
    place = admitted.place
    if edits is not None and place.body is BodyKind.JSON and place.route in EDITED:
        return edited(body, edits, model, given=given)
    if place.route is Route.UPSTREAM or model is None:
        return (body,)
    content_type = head.first.get(b"content-type", b"")
    if place.body is BodyKind.FORM and forms.is_form(content_type):
        field = forms.find_model(body, content_type, required=not given)
        if field is None:
            return forms.with_new_model(body, content_type, model)
        return forms.with_model(body, field, model)
    return edited(body, Edits(), model, given=True) if given else bodies.with_model(body, model)
