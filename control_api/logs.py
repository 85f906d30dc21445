"""Logs as text, redacted: the last lines, and what follows."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiohttp import web

from control_api.operation import TEXT, Call, Operation, Query
from control_api.streams import begin, finish, send
from daemon.core.problems import Code
from daemon.logs.follow import follow, tail

log = logging.getLogger(__name__)

DAEMON: Final = "daemon"
"""The name of the daemon's own log; the configuration allows no model of this name."""


async def logs(call: Call) -> web.StreamResponse:
    path = call.port.log_path(None if call.name == DAEMON else call.name)
    lines = call.query["lines"]
    if not call.query["follow"]:
        found = await asyncio.to_thread(tail, path, lines, call.redact)
        return web.Response(text="".join(f"{line}\n" for line in found), content_type=TEXT)
    ended = asyncio.Event()
    with call.streams.opened(ended.set):
        response = await begin(call.request, TEXT)
        # a task of its own: the log may be silent while the daemon stops or the reader leaves
        sender = asyncio.create_task(
            _send_lines(call, response, path, lines), name=f"log {call.name}"
        )
        stopped = asyncio.create_task(ended.wait())
        try:
            while not (sender.done() or stopped.done() or _gone(call.request)):
                await asyncio.wait(
                    {sender, stopped},
                    timeout=call.limits.heartbeat_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
        finally:
            sender.cancel()
            stopped.cancel()
            await asyncio.gather(sender, stopped, return_exceptions=True)
        return await finish(response, call.limits.write_seconds)


async def _send_lines(call: Call, response: web.StreamResponse, path: str, lines: int) -> None:
    """Send line by line until the reader leaves; ended by its canceller otherwise."""
    source = follow(path, lines=lines, poll=call.limits.log_poll_seconds, redact=call.redact)
    try:
        async for line in source:
            if not await send(response, line.encode() + b"\n", call.limits.write_seconds):
                return
    except Exception:
        log.exception("following %s failed", path)


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/logs/{name}",
        handler=logs,
        tag="logs",
        summary="The log of a model's backend, or (`daemon`) of the daemon, redacted.",
        answer=str,
        media=TEXT,
        query=(
            Query("lines", 100, "Lines from the end.", 0, 100_000),
            Query("follow", False, "Stay open for new lines."),
        ),
        errors=(Code.MODEL_NOT_FOUND,),
    ),
)
