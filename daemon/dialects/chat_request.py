"""A request on its way to a chat engine: chat completions' body, and what that body cannot say.

Every dialect's request becomes a :class:`Chat`; ``norms`` shape it for the model.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from daemon.dialects.fields import Json, an_array, an_object, bad

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True)
class Thinking:
    """What a request wants of the model's reasoning; None: it says nothing."""

    on: bool | None = None
    budget: int | None = None  # tokens
    effort: str | None = None  # one of EFFORTS


@dataclass(slots=True)
class Chat:
    """``body`` is owned: filters change it in place. ``notes``: what was left out and why, for a
    log. ``used``: ids of the calls so far."""

    body: Json
    thinking: Thinking = Thinking()
    notes: list[str] = field(default_factory=list)

    @property
    def messages(self) -> list[Json]:
        """The conversation."""
        messages: list[Json] = self.body["messages"]
        return messages

    @property
    def tools(self) -> list[Json]:
        """Function tools as chat completions write them."""
        tools: list[Json] = self.body.get("tools") or []
        return tools

    def used_ids(self) -> frozenset[str]:
        """Ids of the calls that the conversation holds already."""
        return frozenset(
            [
                call["id"]
                for message in self.messages
                for call in _objects(message.get("tool_calls"))
                if isinstance(call.get("id"), str)
            ]
        )


def _objects(value: object) -> Iterator[Json]:
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield item


def text_part(text: str) -> Json:
    """A text among parts."""
    return {"type": "text", "text": text}


def image_part(url: str, detail: object = None) -> Json:
    """An image among parts; ``url`` may be a ``data:`` one."""
    image: Json = {"url": url}
    if detail in ("low", "high"):
        image["detail"] = detail
    return {"type": "image_url", "image_url": image}


def joined(parts: list[Json]) -> str | list[Json]:
    """Content as most templates like it: one string where there is nothing but text."""
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join([part["text"] for part in parts])
    return parts


def function_tool(name: str, description: object, parameters: object, strict: object) -> Json:
    """A function as chat completions write it."""
    function: Json = {"name": name}
    if isinstance(description, str) and description:
        function["description"] = description
    function["parameters"] = (
        parameters if isinstance(parameters, dict) else {"type": "object", "properties": {}}
    )
    if strict is True:
        function["strict"] = True
    return {"type": "function", "function": function}


def tool_objects(tools: object) -> list[Json]:
    """A chat client's own tools. Raises ProblemError if they are no array of objects."""
    return [
        an_object(tool, f"tools.{place}") for place, tool in enumerate(an_array(tools, "tools"))
    ]


def call(name: str, id: str, arguments: str) -> Json:  # noqa: A002 (the field's own name)
    """A call in an assistant's message."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def json_format(schema: object, name: object = None, strict: object = None) -> Json:
    """``response_format`` for an answer that fits ``schema``."""
    wanted: Json = {"name": name if isinstance(name, str) and name else "output"}
    wanted["schema"] = schema if isinstance(schema, dict) else {"type": "object"}
    wanted["strict"] = strict is not False
    return {"type": "json_schema", "json_schema": wanted}


def decoded_text(data: object, path: str) -> str:
    """The text of a base64 field. Raises ProblemError if it is none."""
    try:
        return base64.b64decode(data if isinstance(data, str) else "", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise bad(f"{path}: found what is no base64 of UTF-8 text.") from error


def document(text: str, title: object = None) -> Json:
    """A document as the text that every model can read."""
    named = f' title="{title}"' if isinstance(title, str) and title else ""
    return text_part(f"<document{named}>\n{text}\n</document>")


def unread(kind: object) -> Json:
    """What the model is told of a document that it cannot be shown."""
    return text_part(
        f"[A document of type {kind}, which you cannot read. A tool may get its text.]"
    )


def take(body: Json, into: Json, *names: str, **renamed: str) -> None:
    """Copy the fields that are there (and not null) as they are, or under another name."""
    for name in names:
        if body.get(name) is not None:
            into[name] = body[name]
    for name, new in renamed.items():
        if body.get(name) is not None:
            into[new] = body[name]


def streamed(body: Json, into: Json) -> None:
    """Ask for a stream with its usage, if the client asked for a stream."""
    if body.get("stream") is True:
        into["stream"] = True
        into["stream_options"] = {"include_usage": True}


def strings(value: Any) -> list[str]:
    """A string, or those of an array."""
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
