"""Measurements: what ``ctl bench`` has found, kept and told."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from control_api.operation import Call, Operation, Query, answer
from control_api.schemas import BenchBody, Benches, BenchView, FigureView, MeasuredView
from daemon.core.problems import Code

_TAG: Final = "benchmarks"
MOST: Final = 1000
USUAL: Final = 100


async def benchmarks(call: Call) -> web.StreamResponse:
    found = await call.port.benchmarks(call.query["model"], call.query["limit"])
    return answer(Benches(benchmarks=found))


async def keep(call: Call) -> web.StreamResponse:
    told = {name: getattr(call.body, name) for name in call.body.__struct_fields__}
    figures = [FigureView(**msgspec.structs.asdict(one)) for one in call.body.figures]
    measured = MeasuredView(**{**told, "figures": figures})
    return answer(await call.port.keep_benchmark(call.name, measured))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/benchmarks",
        handler=benchmarks,
        tag=_TAG,
        summary="What was measured of models, newest first.",
        answer=Benches,
        query=(
            Query("model", "", "Only those of this model (name or alias)."),
            Query("limit", USUAL, "How many at the most.", 1, MOST),
        ),
        errors=(Code.MODEL_NOT_FOUND,),
    ),
    Operation(
        method="POST",
        path="/models/{name}/benchmarks",
        handler=keep,
        tag=_TAG,
        summary="Keep what was measured of a model, with how it is served now.",
        body=BenchBody,
        answer=BenchView,
        errors=(Code.MODEL_NOT_FOUND,),
    ),
)
