"""Requests: what became of one, and where its time went."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from control_api.operation import Call, Operation, answer
from control_api.schemas import RequestView
from daemon.core.problems import Code


async def show_request(call: Call) -> web.StreamResponse:
    return answer(call.port.request(call.request.match_info["id"]))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/requests/{id}",
        handler=show_request,
        tag="requests",
        summary="One of the last requests: where its time went, and what became of it.",
        answer=RequestView,
        errors=(Code.REQUEST_UNKNOWN,),
    ),
)
