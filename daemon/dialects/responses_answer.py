"""Answering in OpenAI's Responses: events as a stream, or as one response.

Source: OpenAI's Responses API reference (streaming events). Codex needs of them
``response.output_item.done`` for each item and ``response.completed`` (recorded); the others make
every other client work, and show progress.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    Whole,
)
from daemon.dialects.fields import Json, encode, loads
from daemon.dialects.tool_names import Kind, Names, Tool, unwrapped

# What a response repeats of its request, and what it says where the request said nothing.
ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_LENGTH = {"reason": "max_output_tokens"}
_FILTER = {"reason": "content_filter"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer repeats of its request. ``created``: seconds since 1970."""

    model: str
    request_id: str
    created: int
    body: Mapping[str, Any] = field(default_factory=dict)
    names: Names = field(default_factory=Names)

    @property
    def summary(self) -> bool:
        """Reasoning is shown as a summary where the client asks for one: that is what Codex shows
        and sends back in its next turn."""
        reasoning = self.body.get("reasoning")
        return isinstance(reasoning, dict) and bool(reasoning.get("summary"))

    @property
    def capped(self) -> bool:
        """Did the client itself limit the output?"""
        return self.body.get("max_output_tokens") is not None

    def item_id(self, kind: str, place: int) -> str:
        """An item's id, unique among all answers."""
        return f"{kind}_{self.request_id.removeprefix('req_')}_{place}"

    def response(self, status: str, output: list[Json], *, tools: bool) -> Json:
        """The response object; without its ``tools`` where it is sent again and again."""
        given = {
            name: self.body[name]
            for name in ECHOED
            if self.body.get(name) is not None and (tools or name != "tools")
        }
        return {
            "id": "resp_" + self.request_id.removeprefix("req_"),
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": self.model,
            "output": output,
            "previous_response_id": None,
            "store": False,
            "usage": None,
            **ECHOED,
            **given,
        }

    def ended(self, finish: Finish, usage: Usage, output: list[Json], *, tools: bool) -> Json:
        """The response at its end."""
        cut = finish.stop in (Stop.LENGTH, Stop.REFUSED)
        response = self.response("incomplete" if cut else "completed", output, tools=tools)
        if cut:
            response["incomplete_details"] = _LENGTH if finish.stop is Stop.LENGTH else _FILTER
        response["usage"] = usage_of(usage)
        return response


def usage_of(usage: Usage) -> Json:
    """Tokens as this API names them."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.output,
    }


def message_item(item_id: str, text: str, status: str = "completed") -> Json:
    """What the model said."""
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {
        "id": item_id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content if text else [],
    }


def reasoning_item(item_id: str, text: str, *, summary: bool) -> Json:
    """What the model thought: a summary, or the text itself."""
    item: Json = {"id": item_id, "type": "reasoning", "summary": []}
    if summary:
        item["summary"] = [{"type": "summary_text", "text": text}] if text else []
    else:
        item["content"] = [{"type": "reasoning_text", "text": text}] if text else []
    return item


def call_item(item_id: str, tool: Tool, call_id: str, arguments: str, *, done: bool = True) -> Json:
    """A call of what the client offered: a function, free text, or its own tool search."""
    status = "completed" if done else "in_progress"
    item: Json = {"id": item_id, "status": status, "call_id": call_id}
    if tool.kind is Kind.SEARCH:
        value = loads(arguments or "{}") or {}
        return {**item, "type": "tool_search_call", "execution": "client", "arguments": value}
    if tool.kind is Kind.CUSTOM:
        item |= {"type": "custom_tool_call", "input": unwrapped(arguments) if done else ""}
    else:
        item |= {"type": "function_call", "arguments": (arguments or "{}") if done else ""}
    item["name"] = tool.name
    if tool.namespace:
        item["namespace"] = tool.namespace
    return item


_CALL_IDS = {Kind.FUNCTION: "fc", Kind.CUSTOM: "ctc", Kind.SEARCH: "tsc"}


def response(whole: Whole, asked: Asked) -> Json:
    """The whole response."""
    output: list[Json] = []
    for part in whole.parts:
        place = len(output)
        if isinstance(part, Text):
            output.append(message_item(asked.item_id("msg", place), part.text))
        elif isinstance(part, Thought):
            item_id = asked.item_id("rs", place)
            output.append(reasoning_item(item_id, part.text, summary=asked.summary))
        else:
            tool = asked.names.tool(part.name)
            item_id = asked.item_id(_CALL_IDS[tool.kind], place)
            output.append(call_item(item_id, tool, part.id, part.arguments))
    return asked.ended(whole.finish, whole.usage, output, tools=True)


class ResponsesWriter:
    """A response as a stream."""

    media = b"text/event-stream"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._begun = False
        self._number = 0
        self._output: list[Json] = []
        self._open: type | None = None
        self._pieces: list[str] = []
        self._item_id = ""
        self._call: CallStart | None = None
        self._tool = Tool("")
        self._finish = Finish(Stop.END)
        self._usage = Usage()

    def write(self, events: list[Event]) -> bytes:
        """The bytes that tell ``events``."""
        out: list[bytes] = []
        for event in events:
            if isinstance(event, (Text, Thought)):
                if self._open is not type(event):
                    self._begin_said(type(event), out)
                self._pieces.append(event.text)
                self._delta(event.text, out)
            elif isinstance(event, CallPiece):
                self._pieces.append(event.text)
                if self._tool.kind is Kind.FUNCTION:
                    self._delta(event.text, out)
            elif isinstance(event, CallStart):
                self._begin_call(event, out)
            elif isinstance(event, CallEnd):
                self._close(out)
            elif isinstance(event, Finish):
                self._close(out)
                self._finish = event
            elif isinstance(event, Usage):
                self._usage = event
        return b"".join(out)

    def end(self) -> bytes:
        """The answer is complete.

        ``response.incomplete`` only where the client set a limit: Codex, which never does, takes
        it for a broken stream and asks five times more.
        """
        out: list[bytes] = []
        self._begin(out)
        self._close(out)
        response = self._asked.ended(self._finish, self._usage, self._output, tools=True)
        cut = response["status"] == "incomplete" and self._asked.capped
        name = "response.incomplete" if cut else "response.completed"
        self._tell(name, {"response": response}, out)
        return b"".join(out)

    def wait(self) -> bytes:
        """A keep-alive: an event, since Codex's clock counts no comments (recorded)."""
        out: list[bytes] = []
        if self._begun:
            self._in_progress(out)
        self._begin(out)
        return b"".join(out)

    def failed(self, failure: Failure, code: str) -> bytes:
        """The end of a stream that cannot succeed; Codex gives up at once on
        ``context_length_exceeded`` and ``server_is_overloaded`` (recorded)."""
        out: list[bytes] = []
        self._begin(out)
        response = self._asked.response("failed", self._output, tools=False)
        response["error"] = {"code": code, "message": failure.message}
        self._tell("response.failed", {"response": response}, out)
        return b"".join(out)

    # ------------------------------------------------------------ items

    def _begin_said(self, kind: type, out: list[bytes]) -> None:
        self._begin(out)
        self._close(out)
        self._open, self._pieces = kind, []
        if kind is Text:
            self._item_id = self._asked.item_id("msg", len(self._output))
            item = message_item(self._item_id, "", "in_progress")
        else:
            self._item_id = self._asked.item_id("rs", len(self._output))
            item = reasoning_item(self._item_id, "", summary=self._asked.summary)
        self._item("added", item, out)
        if kind is Text:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._about("response.content_part.added", {"content_index": 0, "part": part}, out)
        elif self._asked.summary:
            about = {"summary_index": 0, "part": {"type": "summary_text", "text": ""}}
            self._about("response.reasoning_summary_part.added", about, out)

    def _begin_call(self, start: CallStart, out: list[bytes]) -> None:
        self._begin(out)
        self._close(out)
        self._open, self._pieces, self._call = CallStart, [], start
        self._tool = self._asked.names.tool(start.name)
        self._item_id = self._asked.item_id(_CALL_IDS[self._tool.kind], len(self._output))
        self._item("added", call_item(self._item_id, self._tool, start.id, "", done=False), out)

    def _delta(self, text: str, out: list[bytes]) -> None:
        if self._open is Text:
            name, rest = b"response.output_text.delta", b',"content_index":0,"logprobs":[]'
        elif self._open is CallStart:
            name, rest = b"response.function_call_arguments.delta", b""
        elif self._asked.summary:
            name, rest = b"response.reasoning_summary_text.delta", b',"summary_index":0'
        else:
            name, rest = b"response.reasoning_text.delta", b',"content_index":0'
        out.append(
            b'event: %b\ndata: {"type":"%b","sequence_number":%d,"item_id":%b,"output_index":%d'
            b'%b,"delta":%b}\n\n'
            % (
                name,
                name,
                self._number,
                encode(self._item_id),
                len(self._output),
                rest,
                encode(text),
            )
        )
        self._number += 1

    def _close(self, out: list[bytes]) -> None:
        kind, self._open = self._open, None
        if kind is None:
            return
        text = "".join(self._pieces)
        if kind is Text:
            item = message_item(self._item_id, text)
            done: Json = {"content_index": 0, "text": text, "logprobs": []}
            self._about("response.output_text.done", done, out)
            about: Json = {"content_index": 0, "part": item["content"][0]}
            self._about("response.content_part.done", about, out)
        elif kind is Thought:
            item = reasoning_item(self._item_id, text, summary=self._asked.summary)
            self._close_thought(text, out)
        else:
            item = self._close_call(text, out)
        self._item("done", item, out)
        self._output.append(item)

    def _close_thought(self, text: str, out: list[bytes]) -> None:
        if self._asked.summary:
            done = {"summary_index": 0, "text": text}
            self._about("response.reasoning_summary_text.done", done, out)
            part = {"summary_index": 0, "part": {"type": "summary_text", "text": text}}
            self._about("response.reasoning_summary_part.done", part, out)
        else:
            done = {"content_index": 0, "text": text}
            self._about("response.reasoning_text.done", done, out)

    def _close_call(self, text: str, out: list[bytes]) -> Json:
        assert self._call is not None
        item = call_item(self._item_id, self._tool, self._call.id, text)
        if self._tool.kind is Kind.FUNCTION:
            done = {"arguments": item["arguments"], "name": self._tool.name}
            self._about("response.function_call_arguments.done", done, out)
        elif self._tool.kind is Kind.CUSTOM:  # its text is known only when the JSON is complete
            self._about("response.custom_tool_call_input.delta", {"delta": item["input"]}, out)
            self._about("response.custom_tool_call_input.done", {"input": item["input"]}, out)
        return item

    # ------------------------------------------------------------ bytes

    def _begin(self, out: list[bytes]) -> None:
        if not self._begun:
            self._begun = True
            response = self._asked.response("in_progress", [], tools=False)
            self._tell("response.created", {"response": response}, out)
            self._in_progress(out)

    def _in_progress(self, out: list[bytes]) -> None:
        response = self._asked.response("in_progress", [], tools=False)
        self._tell("response.in_progress", {"response": response}, out)

    def _item(self, step: str, item: Json, out: list[bytes]) -> None:
        about = {"output_index": len(self._output), "item": item}
        self._tell(f"response.output_item.{step}", about, out)

    def _about(self, name: str, fields: Json, out: list[bytes]) -> None:
        about = {"item_id": self._item_id, "output_index": len(self._output), **fields}
        self._tell(name, about, out)

    def _tell(self, name: str, fields: Json, out: list[bytes]) -> None:
        payload = encode({"type": name, "sequence_number": self._number, **fields})
        self._number += 1
        out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), payload))
