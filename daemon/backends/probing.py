"""Asking a backend whether it is ready: a cheap look first, then one real request.

``/health`` alone proves nothing: llama.cpp says ok there after a fatal Metal error while every
request fails (ggml-org/llama.cpp#27309), mlx-lm says it before the weights are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from daemon.dialing import dial
from daemon.engines.base import Probe
from daemon.ports import Target


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of one HTTP answer; status 0: no answer at all."""

    status: int
    body: bytes = b""


async def ask(
    target: Target,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    deadline: float | None,
    limit: int = 1 << 20,
) -> Answer:
    """One request to a backend of ours, on a connection of its own.

    ``deadline`` seconds in all; None: as long as it takes. A refused or broken connection is
    ``Answer(0)``, not an error.
    """
    host = "localhost" if target.uds is not None else f"{target.host}:{target.port}"
    head = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    head += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body or method == "POST":
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    try:
        async with asyncio.timeout(deadline):
            reader, writer = await _connect(target)
            try:
                writer.write("\r\n".join([*head, "", ""]).encode("latin-1") + body)
                raw = await _read(reader, limit)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return Answer(0)
    return _parse(raw)


async def _connect(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if target.uds is not None:
        return await asyncio.open_unix_connection(sock=await dial(target.uds))
    return await asyncio.open_connection(target.host, target.port)


async def _read(reader: asyncio.StreamReader, limit: int) -> bytes:
    """Until the end, or until the declared length is there: not every server closes at once."""
    raw = b""
    while len(raw) < limit:
        chunk = await reader.read(65536)
        if not chunk:
            break
        raw += chunk
        head, found, body = raw.partition(b"\r\n\r\n")
        if found:
            length = _content_length(head)
            if length is not None and len(body) >= length:
                break
    return raw


def _content_length(head: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return None


def _parse(raw: bytes) -> Answer:
    head, found, body = raw.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if not found or len(words) < 2 or len(words[1]) != 3 or not words[1].isdigit():
        return Answer(0)
    return Answer(int(words[1]), body)


async def healthy(
    target: Target, probe: Probe, headers: Mapping[str, str], *, deadline: float
) -> bool:
    """The cheap look: the health path answers 200 (with the text that means it)."""
    if probe.health is None:
        return await _listens(target, deadline)
    answer = await ask(target, "GET", probe.health, headers=headers, deadline=deadline)
    return answer.status == 200 and probe.healthy_text in answer.body


async def _listens(target: Target, deadline: float) -> bool:
    try:
        async with asyncio.timeout(deadline):
            _, writer = await _connect(target)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


async def answers(
    target: Target, probe: Probe, headers: Mapping[str, str], *, deadline: float | None
) -> Answer:
    """The real request. Ready is a 2xx to it. ``deadline`` as in :func:`ask`."""
    return await ask(
        target, probe.method, probe.path, body=probe.body, headers=headers, deadline=deadline
    )
