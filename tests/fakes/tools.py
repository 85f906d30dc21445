"""A stand-in that works: it has the client write a file by the client's own tool, then answers.

Which tool, and what its arguments are called, is read from the request's own tools.
"""

from __future__ import annotations

import json
import shlex

from tests.fakes.shapes import Chat, Messages, Responses, Shape

TEXT = "written by the model"
Call = tuple[str, dict[str, object]]


def wanted(body: dict[str, object], path: str) -> Call | None:
    """The call that has ``path`` written; None where no tool can, or it has been called."""
    if not path or _answered(body, path):
        return None
    for name, fields in _offered(body).items():
        if name.lower() == "write":
            place = next(f for f in fields if "path" in f.lower())
            return name, {place: path, "content": TEXT + "\n"}
        if name == "exec_command":
            return name, {"cmd": f"echo {shlex.quote(TEXT)} > {shlex.quote(path)}"}
    return None


def _offered(body: dict[str, object]) -> dict[str, list[str]]:
    """Names of the tools, with the names of their arguments."""
    found = {}
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else []:
        about = tool.get("function", tool)
        schema = about.get("parameters") or about.get("input_schema") or {}
        found[str(about.get("name"))] = list(schema.get("properties", {}))
    return found


def _answered(body: dict[str, object], path: str) -> bool:
    """Has it been called, by whichever model of this conversation?"""
    text = json.dumps([body.get("messages"), body.get("input")])
    marks = ('"tool_result"', '"role": "tool"', '"function_call_output"')
    return path in text and any(mark in text for mark in marks)


def answer(shape: Shape, call: Call) -> None:
    """The whole answer: nothing but this call."""
    name, arguments = call
    if isinstance(shape, Chat):
        _chat(shape, name, json.dumps(arguments))
    elif isinstance(shape, Messages):
        _messages(shape, name, arguments)
    elif isinstance(shape, Responses):
        _responses(shape, name, json.dumps(arguments))


def _chat(shape: Chat, name: str, arguments: str) -> None:
    function = {"name": name, "arguments": arguments}
    call = {"index": 0, "id": f"call_{shape.id}", "type": "function", "function": function}
    usage = {"prompt_tokens": shape.prompt, "completion_tokens": 9, "total_tokens": 9}
    if not shape.stream:
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        body = shape.envelope("chat.completion", choices=[choice], usage=usage)
        shape.connection.answer(200, body)
        return
    shape.chunk({"role": "assistant", "content": None})
    half = len(arguments) // 2
    shape.chunk({"tool_calls": [{**call, "function": {"name": name, "arguments": ""}}]})
    for piece in (arguments[:half], arguments[half:]):
        shape.chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    shape.chunk({}, "tool_calls")
    shape.connection.event(shape.envelope("chat.completion.chunk", choices=[], usage=usage))
    shape.connection.event("[DONE]")
    shape.connection.finish()


def _messages(shape: Messages, name: str, arguments: dict[str, object]) -> None:
    block = {"type": "tool_use", "id": f"toolu_{shape.id}", "name": name}
    if not shape.stream:
        content: list[object] = [{**block, "input": arguments}]
        shape.connection.answer(200, shape.message(content, "tool_use", 9))
        return
    shape.event("message_start", message=shape.message([], None, 0))
    shape.event("content_block_start", index=0, content_block={**block, "input": {}})
    text = json.dumps(arguments)
    half = len(text) // 2
    for piece in (text[:half], text[half:]):
        delta = {"type": "input_json_delta", "partial_json": piece}
        shape.event("content_block_delta", index=0, delta=delta)
    shape.event("content_block_stop", index=0)
    ending = {"stop_reason": "tool_use", "stop_sequence": None}
    shape.event("message_delta", delta=ending, usage={"output_tokens": 9})
    shape.event("message_stop")
    shape.connection.finish()


def _responses(shape: Responses, name: str, arguments: str) -> None:
    about = {"type": "function_call", "id": f"fc_{shape.id}", "call_id": f"call_{shape.id}"}
    item = {**about, "name": name, "arguments": arguments, "status": "completed"}
    response = shape.response("completed", [item], 9)
    if not shape.stream:
        shape.connection.answer(200, response)
        return
    shape.event("response.created", response=shape.response("in_progress", [], 0))
    shape.event("response.output_item.added", output_index=0, item={**item, "arguments": ""})
    shape.event("response.output_item.done", output_index=0, item=item)
    shape.event("response.completed", response=response)
    shape.connection.finish()
