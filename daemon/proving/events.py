"""Server-sent events and bodies of errors: bytes in, values out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemon.proving.values import Heard, Told

_SHOWN = 200  # characters of what an engine said


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    name: str
    data: str


def split(data: bytes) -> tuple[list[Event], str]:
    """The events of a stream, comments left out, and what is wrong with its bytes ("": nothing).

    The event stream format is that of the HTML standard: UTF-8, fields a line, ended by an empty
    line. An event that is not ended is dropped by clients, so it counts as missing here too.
    """
    wrong = ""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text, wrong = data.decode("utf-8", "replace"), "the stream is not UTF-8"
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events: list[Event] = []
    name = ""
    parts: list[str] = []
    for line in lines[:-1]:
        if not line:
            if parts:
                events.append(Event(name, "\n".join(parts)))
            name, parts = "", []
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "data":
            parts.append(value)
        elif key == "event":
            name = value
    if parts or lines[-1].startswith("data"):
        wrong = wrong or "the last event is not ended by an empty line: clients drop it"
    return events, wrong


def objects(data: bytes, told: Told) -> list[tuple[str, dict[str, Any]]]:
    """The JSON objects of a stream with the names of their events; ``[DONE]`` is ``{}``.

    What is no object, and an error that comes as an event, is written down in ``told``.
    """
    events, wrong = split(data)
    if wrong:
        told.flaw(wrong)
    found: list[tuple[str, dict[str, Any]]] = []
    for event in events:
        if event.data.strip() == "[DONE]":
            found.append((event.name, {}))
            continue
        value = loads(event.data)
        if not isinstance(value, dict):
            told.flaw(f"an event is no JSON object: {event.data[:60]!r}")
        elif value.get("type") == "error" or (value.get("error") and not value.get("choices")):
            told.error = told.error or message_of(value)
        else:
            found.append((event.name, value))
    return found


def loads(text: str | bytes) -> Any:
    """JSON, or None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def refusal(heard: Heard) -> tuple[str, str]:
    """Code and message of an answer that is no 200, in whichever shape it came."""
    body = loads(heard.data)
    if not isinstance(body, dict):
        text = heard.data.decode("utf-8", "replace").strip()[:_SHOWN]
        return "", text or f"status {heard.status}"
    error = body.get("error")
    code = ""
    if isinstance(error, Mapping):
        code = str(error.get("code") or error.get("type") or "")
        if code.isdecimal():  # llama.cpp repeats the status there
            code = str(error.get("type") or "")
    return code, message_of(body)


def message_of(body: Mapping[str, Any]) -> str:
    """The words of an error, in OpenAI's, Anthropic's, FastAPI's or no known shape."""
    error = body.get("error", body.get("detail", body.get("message")))
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("type")
    text = error if isinstance(error, str) else json.dumps(error or dict(body))
    return " ".join(text.split())[:_SHOWN]


def number(value: object) -> int | None:
    """A count of tokens, or None."""
    return value if type(value) is int and value >= 0 else None
