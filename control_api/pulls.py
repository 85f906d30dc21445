"""Downloads under way: which there are, one of them, and its end. They begin as ``pull`` of a
model (``control_api.models``)."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from control_api.operation import Call, Empty, Operation, answer
from control_api.schemas import Pulls, PullView
from daemon.core.problems import Code

_TAG: Final = "pulls"


async def list_pulls(call: Call) -> web.StreamResponse:
    return answer(Pulls(pulls=call.port.pulls()))


async def show_pull(call: Call) -> web.StreamResponse:
    return answer(call.port.pulling(call.name))


async def cancel(call: Call) -> web.StreamResponse:
    return answer(await call.jobs.finish(call.port.cancel_pull(call.name), "cancel a pull"))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/pulls",
        handler=list_pulls,
        tag=_TAG,
        summary="All downloads under way, and those that wait for their turn.",
        answer=Pulls,
    ),
    Operation(
        method="GET",
        path="/pulls/{name}",
        handler=show_pull,
        tag=_TAG,
        summary="One download: of a model, or of hf:OWNER/REPO:QUANT.",
        answer=PullView,
        errors=(Code.PULL_UNKNOWN, Code.MODEL_NOT_FOUND),
    ),
    Operation(
        method="POST",
        path="/pulls/{name}/cancel",
        handler=cancel,
        tag=_TAG,
        summary="End a download; what came so far is kept for the next one.",
        body=Empty,
        answer=PullView,
        errors=(Code.PULL_UNKNOWN, Code.MODEL_NOT_FOUND),
    ),
)
