"""``why``: why was that slow?"""

from __future__ import annotations

import time
from datetime import datetime
from urllib.parse import quote

from control_api.client import Client, view
from control_api.commands.output import Out, duration
from daemon.views import RequestView


def why_request(request_id: str, out: Out) -> int:
    """Explain one of the last requests, by its ``x-request-id``. Raises what the client raises."""
    data = Client().get(f"/requests/{quote(request_id, safe='')}")
    if out.json:
        out.value(data)
        return 0
    request = view(RequestView, data)
    at = datetime.fromtimestamp(request.arrived).astimezone()
    ago = duration(max(0.0, time.time() - request.arrived))
    out.facts(
        [
            ("request", f"{request.id}  {request.method} {request.path}"),
            ("model", request.model),
            ("client", request.client),
            ("arrived", f"{at:%H:%M:%S}, {ago} ago"),
            ("queue", _ms(request.queue_ms)),
            ("making room", _room(request)),
            ("loading", _ms(request.load_ms)),
            ("first byte", _after(request.first_byte_ms)),
            ("all", f"{_ms(request.total_ms)}, status {request.status} ({request.outcome})"),
            ("tokens", _tokens(request)),
            ("retried", "yes: its first backend was lost" if request.retried else ""),
        ]
    )
    out.line(slowest(request))
    return 0


def slowest(request: RequestView) -> str:
    """One sentence: where most of the time went."""
    before = request.first_byte_ms if request.first_byte_ms is not None else request.total_ms
    waited = (request.queue_ms or 0) + (request.evict_ms or 0) + (request.load_ms or 0)
    parts = {
        f"waiting for its turn on {request.model}": request.queue_ms or 0,
        f"waiting for {' and '.join(request.evicted) or 'others'} to make room": request.evict_ms
        or 0,
        f"loading {request.model}": request.load_ms or 0,
        "the engine reading the prompt": max(0.0, before - waited),
        "the engine writing its answer": max(0.0, request.total_ms - before),
    }
    what, most = max(parts.items(), key=lambda part: part[1])
    return f"Most of the time went into {what}: {_ms(most)} of {_ms(request.total_ms)}."


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f} ms" if value < 1000 else duration(value / 1000)


def _after(value: float | None) -> str:
    return "" if value is None else f"after {_ms(value)}"


def _room(request: RequestView) -> str:
    if not request.evict_ms:
        return ""
    return f"{_ms(request.evict_ms)} ({', '.join(request.evicted)} left)"


def _tokens(request: RequestView) -> str:
    speed = request.tokens_per_second
    parts = [
        f"{request.tokens_in} in" if request.tokens_in is not None else "",
        f"{request.tokens_out} out" if request.tokens_out is not None else "",
        f"{speed:g} a second" if speed is not None else "",
    ]
    return ", ".join(part for part in parts if part)
