"""An engine that speaks Anthropic's messages alone, asked for what a chat wants.

Source: Anthropic's Messages API reference. The mirror of ``messages_request`` and
``messages_answer``: a :class:`Chat` out, its stream or message back into events.
"""

from __future__ import annotations

from typing import Any

from daemon.dialects.chat_answer import Ids
from daemon.dialects.chat_request import Chat, take
from daemon.dialects.events import (
    CallEnd,
    CallPiece,
    CallStart,
    Event,
    Failure,
    Finish,
    Stop,
    Text,
    Thought,
    Usage,
)
from daemon.dialects.fields import Json, a_string, an_array, an_object, dumps, loads
from daemon.dialects.roles import text_of
from daemon.dialects.sse import DONE

MAX_TOKENS = 8192
"""Where the client set no limit: Anthropic's shape must have one."""
_STOPS = {
    "end_turn": Stop.END,
    "max_tokens": Stop.LENGTH,
    "tool_use": Stop.CALLS,
    "stop_sequence": Stop.SEQUENCE,
    "refusal": Stop.REFUSED,
}


def to_messages(chat: Chat) -> Json:
    """The body for ``/v1/messages``."""
    body = chat.body
    sent: Json = {"model": body.get("model"), "max_tokens": body.get("max_tokens") or MAX_TOKENS}
    system = [text_of(m.get("content")) for m in chat.messages if m.get("role") == "system"]
    if system:
        sent["system"] = "\n\n".join(system)
    sent["messages"] = _messages(chat.messages)
    take(body, sent, "temperature", "top_p", "top_k", "stream")
    stops = body.get("stop")
    if stops:
        sent["stop_sequences"] = [stops] if isinstance(stops, str) else stops
    if chat.tools:
        sent["tools"] = [_tool(tool["function"]) for tool in chat.tools]
        choice = _choice(body.get("tool_choice"))
        if choice is not None:
            if body.get("parallel_tool_calls") is False and choice["type"] != "none":
                choice["disable_parallel_tool_use"] = True
            sent["tool_choice"] = choice
    wanted = body.get("response_format")
    if isinstance(wanted, dict) and isinstance(wanted.get("json_schema"), dict):
        schema = wanted["json_schema"].get("schema")
        sent["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    kwargs = body.get("chat_template_kwargs")
    on = kwargs.get("enable_thinking") if isinstance(kwargs, dict) else None
    if isinstance(on, bool):
        sent["thinking"] = _thinking(chat, sent["max_tokens"], on=on)
    return sent


def _thinking(chat: Chat, limit: int, *, on: bool) -> Json:
    if not on:
        return {"type": "disabled"}
    budget = chat.thinking.budget or max(1024, limit // 2)
    return {"type": "enabled", "budget_tokens": budget}


def _tool(function: Json) -> Json:
    tool: Json = {"name": function.get("name")}
    if function.get("description"):
        tool["description"] = function["description"]
    tool["input_schema"] = function.get("parameters") or {"type": "object", "properties": {}}
    return tool


def _choice(choice: object) -> Json | None:
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        return {"type": "tool", "name": choice["function"].get("name")}
    words = {"auto": "auto", "required": "any", "none": "none"}
    return {"type": words[choice]} if isinstance(choice, str) and choice in words else None


def _messages(messages: list[Json]) -> list[Json]:
    found: list[Json] = []
    for place, message in enumerate(messages):
        role = message.get("role")
        if role == "system":
            continue
        if role == "tool":
            text = text_of(message.get("content"))
            known = message.get("tool_call_id")
            blocks = [{"type": "tool_result", "tool_use_id": known, "content": text}]
            role = "user"
        else:
            blocks = _blocks(message, f"messages.{place}")
        if found and found[-1]["role"] == role:
            found[-1]["content"] += blocks
        elif blocks:
            found.append({"role": role, "content": blocks})
    return found


def _blocks(message: Json, path: str) -> list[Json]:
    """Raises ProblemError (INVALID_REQUEST): a chat client's own mistake."""
    blocks: list[Json] = []
    thought = message.get("reasoning_content")
    if isinstance(thought, str) and thought:
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    content = message.get("content")
    if isinstance(content, str) and content:
        blocks.append({"type": "text", "text": content})
    for place, item in enumerate(content if isinstance(content, list) else ()):
        at = f"{path}.content.{place}"
        part = an_object(item, at)
        if part.get("type") == "text":
            blocks.append({"type": "text", "text": a_string(part.get("text"), f"{at}.text")})
        elif part.get("type") == "image_url":
            image = an_object(part.get("image_url"), f"{at}.image_url")
            url = a_string(image.get("url"), f"{at}.image_url.url")
            blocks.append({"type": "image", "source": _source(url)})
    for place, item in enumerate(an_array(message.get("tool_calls") or [], f"{path}.tool_calls")):
        at = f"{path}.tool_calls.{place}"
        call = an_object(item, at)
        function = an_object(call.get("function"), f"{at}.function")
        given = loads(a_string(function.get("arguments"), f"{at}.function.arguments"))
        block = {"type": "tool_use", "id": call.get("id"), "name": function.get("name")}
        blocks.append({**block, "input": given})
    return blocks


def _source(url: str) -> Json:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    head, _, data = url.partition(",")
    return {"type": "base64", "media_type": head[5:].partition(";")[0], "data": data}


class MessagesReader:
    """One answer of an engine that speaks messages: the same interface as ``ChatReader``."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._calls = 0
        self._open = False  # a call
        self._usage = Usage()
        self._stop: Finish | None = None
        self.done = False
        self.strange = 0

    def read(self, payload: bytes) -> list[Event]:
        """The events of one event of the stream."""
        if self.done or payload == DONE:
            return []
        value = loads(payload)
        if not isinstance(value, dict):
            self.strange += 1
            return []
        try:
            return self._event(value)
        except (AttributeError, KeyError, TypeError, ValueError):  # no event of Anthropic's
            self.strange += 1
            return []

    def end(self) -> list[Event]:
        """The stream ended. ``done`` is false where it was broken off."""
        if self.done:
            return []
        self.done = self._stop is not None
        return self._closed()

    def whole(self, body: bytes) -> list[Event]:
        """The events of a whole message."""
        value = loads(body)
        if not isinstance(value, dict) or not isinstance(value.get("content"), list):
            error = value.get("error") if isinstance(value, dict) else None
            return [_failure(error or "The engine answered what is no message.")]
        events: list[Event] = []
        for block in value["content"]:
            if isinstance(block, dict):
                events += self._started(block, whole=True)
        events += self._closed()
        self._count(value.get("usage"))
        events += [_finish(value.get("stop_reason"), value.get("stop_sequence")), self._usage]
        self.done = True
        return events

    def _event(self, value: Json) -> list[Event]:
        kind = value.get("type")
        if kind == "content_block_delta":
            return self._delta(value["delta"])
        if kind == "content_block_start":
            return self._started(value["content_block"], whole=False)
        if kind == "content_block_stop":
            return self._closed()
        if kind == "message_start":
            self._count(value["message"].get("usage"))
        elif kind == "message_delta":
            self._count(value.get("usage"))
            delta = value["delta"]
            self._stop = _finish(delta.get("stop_reason"), delta.get("stop_sequence"))
            return [*self._closed(), self._stop, self._usage]
        elif kind == "message_stop":
            self.done = True
            return self._closed() if self._stop else [*self._closed(), Finish(Stop.END)]
        elif kind == "error":
            self.done = True
            return [_failure(value.get("error"))]
        return []

    def _delta(self, delta: Json) -> list[Event]:
        kind = delta.get("type")
        if kind == "text_delta":
            return _said(Text, delta.get("text"))
        if kind == "thinking_delta":
            return _said(Thought, delta.get("thinking"))
        if kind == "input_json_delta" and self._open:
            piece = delta.get("partial_json")
            if isinstance(piece, str) and piece:
                return [CallPiece(self._calls - 1, piece)]
        return []

    def _started(self, block: Json, *, whole: bool) -> list[Event]:
        events = self._closed()
        kind = block.get("type")
        if kind == "text":
            return events + _said(Text, block.get("text"))
        if kind == "thinking":
            return events + _said(Thought, block.get("thinking"))
        if kind == "tool_use" and isinstance(block.get("name"), str):
            known = block.get("id")
            own = self._ids.take(known if isinstance(known, str) else None)
            events.append(CallStart(self._calls, own, block["name"]))
            self._open = True
            self._calls += 1
            if whole:
                events.append(CallPiece(self._calls - 1, dumps(block.get("input") or {})))
        return events

    def _closed(self) -> list[Event]:
        if not self._open:
            return []
        self._open = False
        return [CallEnd(self._calls - 1)]

    def _count(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return

        def count(name: str, before: int) -> int:
            value = usage.get(name)
            return value if type(value) is int and value >= 0 else before

        cached = count("cache_read_input_tokens", self._usage.cached)
        fresh = count("input_tokens", self._usage.prompt - self._usage.cached)
        made = count("cache_creation_input_tokens", 0)
        output = count("output_tokens", self._usage.output)
        self._usage = Usage(fresh + made + cached, cached, output)


def _said(kind: type[Text] | type[Thought], text: object) -> list[Event]:
    return [kind(text)] if isinstance(text, str) and text else []


def _finish(reason: object, sequence: object) -> Finish:
    stop = _STOPS.get(reason, Stop.END) if isinstance(reason, str) else Stop.END
    return Finish(stop, sequence if isinstance(sequence, str) else None)


def _failure(error: object) -> Failure:
    text = error.get("message") if isinstance(error, dict) else error
    kind = error.get("type") if isinstance(error, dict) else None
    status = 400 if kind == "invalid_request_error" else 500
    return Failure(text if isinstance(text, str) else dumps(text), status)
