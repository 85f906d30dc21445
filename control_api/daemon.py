"""The daemon itself: status, version, reload, shutdown."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from control_api.operation import Call, Empty, Operation, answer
from control_api.schemas import Done, PauseBody, ReloadView, StatusView, Version
from daemon.core.problems import Code, Problem, ProblemError

_TAG: Final = "daemon"
API: Final = "v1"


async def status(call: Call) -> web.StreamResponse:
    return answer(call.port.status())


async def version(call: Call) -> web.StreamResponse:
    shown = call.port.status()
    return answer(Version(version=shown.version, api=API, pid=shown.pid))


async def reload(call: Call) -> web.StreamResponse:
    view = await call.jobs.finish(call.port.reload(), "reload")
    if not view.ok:
        raise ProblemError(
            Problem(
                Code.CONFIG_INVALID,
                view.problem or "The configuration is not valid; the old one stays in force.",
                "`ctl config check` shows each mistake.",
                facts={"mistakes": view.mistakes},
            )
        )
    return answer(view)


async def pause(call: Call) -> web.StreamResponse:
    call.port.pause(call.body.duration, hold=call.body.hold, force=call.body.force)
    return answer(Done())


async def resume(call: Call) -> web.StreamResponse:
    return answer(Done(ok=call.port.resume()))


async def shutdown(call: Call) -> web.StreamResponse:
    call.port.shutdown()
    return answer(Done(), status=202)


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/status",
        handler=status,
        tag=_TAG,
        summary="The state of the daemon: address, memory, counters.",
        answer=StatusView,
    ),
    Operation(
        method="GET",
        path="/version",
        handler=version,
        tag=_TAG,
        summary="Version of the daemon and of this API.",
        answer=Version,
    ),
    Operation(
        method="POST",
        path="/reload",
        handler=reload,
        tag=_TAG,
        summary="Read the configuration again; a bad one changes nothing.",
        body=Empty,
        answer=ReloadView,
        errors=(Code.CONFIG_INVALID,),
    ),
    Operation(
        method="POST",
        path="/pause",
        handler=pause,
        tag=_TAG,
        summary="Unload everything and start nothing for a while; requests wait or are refused.",
        body=PauseBody,
        answer=Done,
    ),
    Operation(
        method="POST",
        path="/resume",
        handler=resume,
        tag=_TAG,
        summary="End a pause; `ok` is false if there was none.",
        body=Empty,
        answer=Done,
    ),
    Operation(
        method="POST",
        path="/shutdown",
        handler=shutdown,
        tag=_TAG,
        summary="Stop the daemon.",
        body=Empty,
        answer=Done,
        status=202,
    ),
)
