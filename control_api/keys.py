"""Keys: which there are, a new one, one less. Made and removed by the owner alone, on the private
socket: whoever has stolen a key of scope control shall not make himself another.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from control_api.auth import PRINCIPAL_KEY
from control_api.operation import Call, Empty, Operation, answer
from control_api.schemas import Done, KeyBody, KeyMade, Keys
from daemon.access.keys import Wanted
from daemon.access.principals import OWNER
from daemon.core.problems import Code, Problem, ProblemError

_TAG: Final = "keys"


async def list_keys(call: Call) -> web.StreamResponse:
    return answer(Keys(keys=await call.port.keys()))


async def add_key(call: Call) -> web.StreamResponse:
    _owner_only(call)
    body: KeyBody = call.body
    wanted = Wanted(
        name=body.name,
        scope=body.scope,
        lasts=body.lasts,
        models=tuple(body.models),
        priority=body.priority,
        at_once=body.at_once,
        per_minute=body.per_minute,
        default_model=body.default_model,
    )
    made, text = await call.jobs.finish(call.port.add_key(wanted), "add a key")
    return answer(KeyMade(key=text, about=made), status=201)


async def remove_key(call: Call) -> web.StreamResponse:
    _owner_only(call)
    name = call.request.match_info["key"]
    await call.jobs.finish(call.port.remove_key(name), "remove a key")
    return answer(Done(text=f"The key {name} opens nothing any more."))


def _owner_only(call: Call) -> None:
    if call.request[PRINCIPAL_KEY] is not OWNER:
        text = "Keys are made and removed on the machine itself."
        raise ProblemError(
            Problem(Code.FORBIDDEN, text, "There: ctl key add NAME, ctl key rm NAME")
        )


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/keys",
        handler=list_keys,
        tag=_TAG,
        summary="All keys, without the keys themselves.",
        answer=Keys,
    ),
    Operation(
        method="POST",
        path="/keys",
        handler=add_key,
        tag=_TAG,
        summary="Make a key, which is told here and never again. By the owner alone.",
        body=KeyBody,
        answer=KeyMade,
        status=201,
        errors=(Code.KEY_EXISTS, Code.CONFIG_INVALID),
    ),
    Operation(
        method="POST",
        path="/keys/{key}/remove",
        handler=remove_key,
        tag=_TAG,
        summary="Remove a key, at once. By the owner alone.",
        body=Empty,
        answer=Done,
        errors=(Code.KEY_UNKNOWN, Code.CONFIG_INVALID),
    ),
)
