"""Backends: the running engine processes."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from control_api.errors import StatusProblemError
from control_api.operation import Call, Operation, answer
from control_api.schemas import Backends, BackendView
from daemon.core.problems import Code, Problem

_TAG: Final = "backends"


async def list_backends(call: Call) -> web.StreamResponse:
    return answer(Backends(backends=call.port.backends()))


async def show_backend(call: Call) -> web.StreamResponse:
    """The newest backend of a model: an older one may still be stopping."""
    model = call.port.model(call.name)
    mine = [backend for backend in call.port.backends() if backend.model == model.name]
    if not mine:
        raise StatusProblemError(
            Problem(
                Code.UNLOADED,
                f"{model.name} is not loaded; its state is {model.state}.",
                f"`ctl load {model.name}` loads it.",
            ),
            404,
        )
    return answer(max(mine, key=lambda backend: backend.generation))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/backends",
        handler=list_backends,
        tag=_TAG,
        summary="All backends.",
        answer=Backends,
    ),
    Operation(
        method="GET",
        path="/backends/{name}",
        handler=show_backend,
        tag=_TAG,
        summary="The backend of one model.",
        answer=BackendView,
        errors=(Code.MODEL_NOT_FOUND,),
    ),
)
