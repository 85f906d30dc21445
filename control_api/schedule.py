"""The calendar: what is done when, and what came of it last."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from control_api.operation import Call, Operation, answer
from control_api.redacted import redacted
from control_api.schemas import ScheduleLines


async def schedule(call: Call) -> web.StreamResponse:
    lines = [redacted(line, call.redact) for line in call.port.schedule()]
    return answer(ScheduleLines(schedule=lines))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/schedule",
        handler=schedule,
        tag="daemon",
        summary="The lines of the calendar: what, when next, and what came of it last.",
        answer=ScheduleLines,
    ),
)
