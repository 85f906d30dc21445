"""Orders to load and to unload a model, in the words of other servers. Pure.

Ollama has them as requests without a prompt, LM Studio and llama-server at paths of their own. To
load a model anybody may, as any request does; to unload one is an operator's.
"""

from __future__ import annotations

import time

from daemon.access.principals import CONTROL, Principal
from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects import ollama_answer, ollama_request, servers
from daemon.dialects.errors import Rendered
from daemon.dialects.fields import bad, read
from daemon.dialects.shapes import Shape
from daemon.ports import ModelCard
from daemon.relay.body import Body
from daemon.relay.routes import Order, Place

_BYTES = 4096
"""An order of Ollama's is short: what is longer asks something."""
_OLLAMA = (Shape.OLLAMA_CHAT, Shape.OLLAMA_GENERATE)
_NAMES = ("model", "instance_id")  # LM Studio has the second where a model is loaded


def order_of(place: Place, body: Body) -> Order | None:
    """What is ordered; None: it is a question. Raises ProblemError (INVALID_JSON)."""
    if place.order is not None or place.shape not in _OLLAMA or len(body) > _BYTES:
        return place.order
    asked = ollama_request.load_asked(read(body))
    if asked is None:
        return None
    return Order.UNLOAD if asked.unload else Order.LOAD


def ordered(body: Body) -> str:
    """The model that is meant at a path of :class:`Order`. Raises ProblemError."""
    asked = read(body)
    name = next((asked[name] for name in _NAMES if name in asked), None)
    if not isinstance(name, str) or not name:
        raise bad("model: allowed is the name of a model.")
    return name


def check(order: Order, principal: Principal, model: str) -> None:
    """May it be given? Raises ProblemError (UNAUTHORIZED)."""
    if order is Order.UNLOAD and not principal.may(CONTROL):
        text = "Unloading a model needs a key with the scope control."
        hint = f"On this machine: ctl unload {model}"
        raise ProblemError(Problem(Code.UNAUTHORIZED, text, hint))


def done(
    order: Order, place: Place, model: str, card: ModelCard | None, seconds: float
) -> Rendered:
    """The answer to one that is carried out. ``seconds``: how long that took."""
    unload = order is Order.UNLOAD
    if place.shape is not None:
        generate = place.shape is Shape.OLLAMA_GENERATE
        said = ollama_answer.loaded(model, int(time.time()), generate=generate, unload=unload)
    elif place.upstream:
        said = servers.lm_unloaded(model) if unload else servers.lm_loaded(model, card, seconds)
    else:
        said = servers.SUCCESS
    return 200, [("Content-Type", "application/json")], said
