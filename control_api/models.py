"""Models: what there is, load, unload, pin, reset, pull, and what tests of them have found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from aiohttp import web

from control_api.errors import StatusProblemError, encode
from control_api.operation import JSON, NDJSON, Call, Empty, Operation, Query, answer
from control_api.schemas import (
    MAX_CTX,
    Done,
    ErrorBody,
    FindingView,
    FitView,
    LoadBody,
    Models,
    ModelView,
    ProgressLine,
    PullBody,
    TestBody,
    UnloadBody,
    Unloaded,
    Verdicts,
    VerdictView,
)
from control_api.streams import begin, finish, send
from daemon.core.problems import Code, ProblemError
from daemon.ports import Progress

_TAG: Final = "models"


async def list_models(call: Call) -> web.StreamResponse:
    presets, found = call.query["presets"], call.query["found"]
    if found:
        await call.port.look()
    if presets:
        await call.port.decide()
    return answer(Models(models=call.port.models(presets=presets, found=found)))


async def show_model(call: Call) -> web.StreamResponse:
    await call.port.look(call.name)
    return answer(call.port.model(call.name))


async def fit(call: Call) -> web.StreamResponse:
    await call.port.look(call.name)
    return answer(await call.port.fit(call.name, ctx=call.query["ctx"] or None))


async def load(call: Call) -> web.StreamResponse:
    await call.port.look(call.name)
    name = call.port.model(call.name).name
    return await _run(
        call, call.port.load(name, ctx=call.body.ctx, fit=call.body.fit), f"load {name}", name
    )


async def pull(call: Call) -> web.StreamResponse:
    name = call.name if call.name.startswith("hf:") else call.port.model(call.name).name
    return await _run(call, call.port.pull(name), f"pull {name}", name)


async def unload(call: Call) -> web.StreamResponse:
    return await _unload(call, call.name)


async def unload_all(call: Call) -> web.StreamResponse:
    return await _unload(call, None)


async def _unload(call: Call, name: str | None) -> web.StreamResponse:
    work = call.port.unload(name, force=call.body.force)
    return answer(Unloaded(unloaded=await call.jobs.finish(work, "unload")))


async def pin(call: Call) -> web.StreamResponse:
    await call.port.look(call.name)
    call.port.pin(call.name, True)
    return answer(Done(model=call.name))


async def unpin(call: Call) -> web.StreamResponse:
    call.port.pin(call.name, False)
    return answer(Done(model=call.name))


async def reset(call: Call) -> web.StreamResponse:
    text = call.port.reset(call.name)
    return answer(Done(model=call.name, text=text))


async def verdicts(call: Call) -> web.StreamResponse:
    return answer(Verdicts(verdicts=call.port.verdicts(call.name)))


async def judge(call: Call) -> web.StreamResponse:
    findings = [FindingView(**msgspec.structs.asdict(one)) for one in call.body.findings]
    try:
        return answer(call.port.judge(call.name, findings))
    except ProblemError as error:
        if error.problem.code is not Code.INVALID_REQUEST:
            raise
        # The request is well formed: it is only that nothing was known, and nothing is now.
        raise StatusProblemError(error.problem, 409) from None


async def _run(
    call: Call, steps: AsyncIterator[Progress], job_name: str, name: str
) -> web.StreamResponse:
    """Start the job. What is refused at once gets a status of its own; with ``wait`` the steps are
    streamed, and the job goes on if the reader leaves."""
    job = call.jobs.start(steps, job_name)
    await job.started(call.limits.first_step_seconds)
    if job.error is not None:
        raise job.error
    if not call.body.wait:
        return answer(Done(model=name), status=202)
    response = await begin(call.request, NDJSON)
    while True:
        try:
            line = await job.next_line(call.limits.heartbeat_seconds)
        except TimeoutError:
            data = b"\n"  # an empty line: nothing new, still here
        else:
            if line is None:
                return await finish(response, call.limits.write_seconds)
            data = encode(line) + b"\n"
        if not await send(response, data, call.limits.write_seconds):
            return response


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/models",
        handler=list_models,
        tag=_TAG,
        summary="All models of the catalog, loaded or not.",
        answer=Models,
        query=(
            Query("presets", False, "Also the presets that nobody has added yet."),
            Query("found", False, "Also those on this machine's disk; it is looked at anew."),
        ),
    ),
    Operation(
        method="GET",
        path="/models/{name}",
        handler=show_model,
        tag=_TAG,
        summary="One model.",
        answer=ModelView,
        errors=(Code.MODEL_NOT_FOUND,),
    ),
    Operation(
        method="GET",
        path="/models/{name}/fit",
        handler=fit,
        tag=_TAG,
        summary="Whether a load would fit, whom it would evict, and what could be done.",
        answer=FitView,
        query=(Query("ctx", 0, "Context in tokens; 0: as configured.", 0, MAX_CTX),),
        errors=(Code.MODEL_NOT_FOUND, Code.NOT_PULLED, Code.ENGINE_MISSING),
    ),
    Operation(
        method="POST",
        path="/models/{name}/load",
        handler=load,
        tag=_TAG,
        summary="Load a model, in its turn and within the budget.",
        body=LoadBody,
        status=202,
        answer=Done,
        also={200: (NDJSON, ProgressLine)},
        errors=(
            Code.MODEL_NOT_FOUND,
            Code.MODEL_TOO_LARGE,
            Code.ALL_PINNED,
            Code.UNLOADED,
            Code.QUEUE_TIMEOUT,
            Code.PAUSED,
            Code.NOT_PULLED,
            Code.MODEL_UNAVAILABLE,
            Code.SHUTTING_DOWN,
        ),
    ),
    Operation(
        method="POST",
        path="/models/{name}/pull",
        handler=pull,
        tag=_TAG,
        summary="Download a model's files, or (hf:OWNER/REPO:QUANT) what nobody has configured.",
        body=PullBody,
        status=202,
        answer=Done,
        also={200: (NDJSON, ProgressLine)},
        errors=(Code.MODEL_NOT_FOUND, Code.PULL_FAILED, Code.SHUTTING_DOWN),
    ),
    Operation(
        method="POST",
        path="/models/{name}/unload",
        handler=unload,
        tag=_TAG,
        summary="Unload a model; answers when its process is gone.",
        body=UnloadBody,
        answer=Unloaded,
        errors=(Code.MODEL_NOT_FOUND,),
    ),
    Operation(
        method="POST",
        path="/unload",
        handler=unload_all,
        tag=_TAG,
        summary="Unload all models.",
        body=UnloadBody,
        answer=Unloaded,
    ),
    Operation(
        method="GET",
        path="/models/{name}/tests",
        handler=verdicts,
        tag=_TAG,
        summary="What tests of a model have found, per version of its engine.",
        answer=Verdicts,
        errors=(Code.MODEL_NOT_FOUND,),
    ),
    Operation(
        method="POST",
        path="/models/{name}/tests",
        handler=judge,
        tag=_TAG,
        summary="Keep what a test has found.",
        body=TestBody,
        answer=VerdictView,
        also={409: (JSON, ErrorBody)},
        errors=(Code.MODEL_NOT_FOUND,),
    ),
    *(
        Operation(
            method="POST",
            path=f"/models/{{name}}/{verb}",
            handler=handler,
            tag=_TAG,
            summary=summary,
            body=Empty,
            answer=Done,
            media=JSON,
            errors=(Code.MODEL_NOT_FOUND,),
        )
        for verb, handler, summary in (
            ("pin", pin, "Never evict it, until unpinned or until the daemon restarts."),
            ("unpin", unpin, "Let it be evicted again."),
            ("reset", reset, "Forget its crashes, so that it may be tried again."),
        )
    ),
)
