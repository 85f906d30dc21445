"""Incidents: what died, why, what was done, what to do."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from control_api.operation import Call, Operation, Query, answer
from control_api.redacted import redacted
from control_api.schemas import Incidents
from daemon.core.problems import Code

MOST: Final = 500
USUAL: Final = 100


async def incidents(call: Call) -> web.StreamResponse:
    """The newest first. Redacted again: what is a secret today may not have been one then."""
    found = call.port.incidents(call.query["model"], call.query["limit"])
    shown = [redacted(one, call.redact) for one in found]
    return answer(Incidents(incidents=shown, stories=call.port.stories(shown)))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/incidents",
        handler=incidents,
        tag="incidents",
        summary="Backends that ended unasked, newest first, and what to do about it.",
        answer=Incidents,
        query=(
            Query("model", "", "Only those of this model (name or alias)."),
            Query("limit", USUAL, "How many at the most.", 1, MOST),
        ),
        errors=(Code.MODEL_NOT_FOUND,),
    ),
)
