"""How each dialect writes an answer, streamed or whole."""

from __future__ import annotations

import json
import os
import time

from tests.fakes import acting
from tests.fakes.wire import Connection


def prompt_tokens(body: dict[str, object]) -> int:
    """Words of everything that is part of the prompt."""
    parts = ("messages", "prompt", "input", "system", "instructions", "tools")
    return sum(len(json.dumps(body[part]).split()) for part in parts if part in body)


class Shape:
    """One answer in one dialect. Subclasses write the fields that clients read, not whole APIs."""

    limits: tuple[str, ...] = ("max_tokens",)

    def __init__(
        self, connection: Connection, name: str, body: dict[str, object], number: int
    ) -> None:
        self.connection, self.name, self.body = connection, name, body
        self.options = connection.faults
        self.stream = bool(body.get("stream"))
        self.id = f"fake-{os.getpid()}-{number}"
        found = [body[name] for name in self.limits if isinstance(body.get(name), int)]
        self.limit = int(str(found[0])) if found else None
        self.prompt = prompt_tokens(body)
        if self.options.cut_long:
            self.prompt = min(self.prompt, self.options.ctx_size)
        self.call = acting.call(self.options, body)

    def start(self) -> None:
        """Called before the first piece."""

    def piece(self, text: str) -> None:
        """Called for each token."""
        raise NotImplementedError

    def end(self, text: str, count: int, finish: str) -> None:
        """Called after the last: the whole answer, or the end of the stream."""
        raise NotImplementedError


class Chat(Shape):
    """POST /v1/chat/completions."""

    limits = ("max_completion_tokens", "max_tokens")

    def chunk(self, delta: dict[str, object], finish: str | None = None) -> None:
        """One chunk of the stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        self.connection.event(self.envelope("chat.completion.chunk", choices=[choice]))

    def envelope(self, kind: str, **fields: object) -> dict[str, object]:
        """What chunks and whole answers share."""
        about = {"id": f"chatcmpl-{self.id}", "object": kind, "created": int(time.time())}
        return {**about, "model": self.name, **fields}

    def start(self) -> None:
        if self.stream:
            self.chunk({"role": "assistant", "content": None})
            for word in self.options.reasoning.split():
                self.chunk({"reasoning_content": word + " "})

    def piece(self, text: str) -> None:
        if self.stream and not self.called():
            self.chunk({"content": text})

    def called(self) -> tuple[str, str] | None:
        """Name and arguments of the tool call, if there is one."""
        return (self.options.tool, "{}") if self.options.tool else self.call

    def calls(self) -> list[dict[str, object]]:
        """The tool call, if one was asked for."""
        name, arguments = self.called() or ("", "")
        function = {"name": name, "arguments": arguments}
        return [{"index": 0, "id": f"call-{self.id}", "type": "function", "function": function}]

    def end(self, text: str, count: int, finish: str) -> None:
        called = self.called() is not None
        if called and not self.options.ends_wrong:
            finish = "tool_calls"
        total = self.prompt + count
        usage = {"prompt_tokens": self.prompt, "completion_tokens": count, "total_tokens": total}
        if not self.stream:
            message: dict[str, object] = {"role": "assistant", "content": text}
            if self.options.reasoning:
                message["reasoning_content"] = self.options.reasoning
            if called:
                message |= {"content": None, "tool_calls": self.calls()}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            body = self.envelope("chat.completion", choices=[choice], usage=usage)
            self.connection.answer(200, body)
            return
        if called:
            self.chunk({"tool_calls": self.calls()})
        if not self.options.no_finish:
            self.chunk({}, finish)
        wanted = self.body.get("stream_options")
        if isinstance(wanted, dict) and wanted.get("include_usage"):
            chunk = self.envelope("chat.completion.chunk", choices=[], usage=usage)
            self.connection.event(chunk)
        self.connection.event("[DONE]")
        self.connection.finish()


class Completion(Shape):
    """POST /v1/completions."""

    limits = ("max_tokens", "n_predict")

    def body_of(self, text: str, finish: str | None, **fields: object) -> dict[str, object]:
        """A chunk and a whole answer look alike."""
        choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
        about = {"id": f"cmpl-{self.id}", "object": "text_completion", "created": int(time.time())}
        return {**about, "model": self.name, "choices": [choice], **fields}

    def piece(self, text: str) -> None:
        if self.stream:
            self.connection.event(self.body_of(text, None))

    def end(self, text: str, count: int, finish: str) -> None:
        total = self.prompt + count
        usage = {"prompt_tokens": self.prompt, "completion_tokens": count, "total_tokens": total}
        if not self.stream:
            self.connection.answer(200, self.body_of(text, finish, usage=usage))
            return
        self.connection.event(self.body_of("", finish))
        self.connection.event("[DONE]")
        self.connection.finish()


class Messages(Shape):
    """POST /v1/messages."""

    def message(self, content: list[object], stop: str | None, count: int) -> dict[str, object]:
        """The message object, at the start and as a whole."""
        about = {"id": f"msg_{self.id}", "type": "message", "role": "assistant"}
        usage = {"input_tokens": self.prompt, "output_tokens": count}
        ending = {"stop_reason": stop, "stop_sequence": None, "usage": usage}
        return {**about, "model": self.name, "content": content, **ending}

    def event(self, name: str, **fields: object) -> None:
        """Anthropic's events are named twice."""
        self.connection.event({"type": name, **fields}, name)

    def start(self) -> None:
        if self.stream:
            self.event("message_start", message=self.message([], None, 0))
            self.event("content_block_start", index=0, content_block=self.block(""))

    def block(self, text: str) -> dict[str, object]:
        """The one block of the answer: text, or the call of a tool without its input."""
        if self.call is None:
            return {"type": "text", "text": text}
        return {"type": "tool_use", "id": f"toolu_{self.id}", "name": self.call[0], "input": {}}

    def piece(self, text: str) -> None:
        if self.stream and self.call is None:
            delta = {"type": "text_delta", "text": text}
            self.event("content_block_delta", index=0, delta=delta)

    def end(self, text: str, count: int, finish: str) -> None:
        stop = "max_tokens" if finish == "length" else "end_turn"
        if self.call is not None and not self.options.ends_wrong:
            stop = "tool_use"
        if not self.stream:
            block = self.block(text)
            if self.call is not None:
                block["input"] = json.loads(self.call[1])
            content: list[object] = [block]
            self.connection.answer(200, self.message(content, stop, count))
            return
        if self.call is not None:
            for part in (self.call[1][:5], self.call[1][5:]):
                delta: dict[str, object] = {"type": "input_json_delta", "partial_json": part}
                self.event("content_block_delta", index=0, delta=delta)
        self.event("content_block_stop", index=0)
        if self.options.no_finish:
            self.connection.finish()
            return
        delta = {"stop_reason": stop, "stop_sequence": None}
        self.event("message_delta", delta=delta, usage={"output_tokens": count})
        self.event("message_stop")
        self.connection.finish()


class Responses(Shape):
    """POST /v1/responses."""

    limits = ("max_output_tokens",)

    def response(self, status: str, output: list[object], count: int) -> dict[str, object]:
        """The response object, at the start and as a whole."""
        total = self.prompt + count
        usage = {"input_tokens": self.prompt, "output_tokens": count, "total_tokens": total}
        about = {"id": f"resp_{self.id}", "object": "response", "created_at": int(time.time())}
        return {
            **about,
            "model": self.name,
            "status": status,
            "output": output,
            "usage": usage,
        }

    def item(self, status: str, content: list[object]) -> dict[str, object]:
        """The one output item."""
        about = {"type": "message", "id": f"item_{self.id}", "role": "assistant"}
        return {**about, "status": status, "content": content}

    def event(self, name: str, **fields: object) -> None:
        """Named twice here as well."""
        self.connection.event({"type": name, **fields}, name)

    def start(self) -> None:
        if self.stream:
            self.event("response.created", response=self.response("in_progress", [], 0))
            item = self.item("in_progress", [])
            self.event("response.output_item.added", output_index=0, item=item)

    def piece(self, text: str) -> None:
        if self.stream and self.call is None:
            where = {"item_id": f"item_{self.id}", "output_index": 0, "content_index": 0}
            self.event("response.output_text.delta", **where, delta=text)

    def end(self, text: str, count: int, finish: str) -> None:
        status = "incomplete" if finish == "length" else "completed"
        item = self.item(status, [{"type": "output_text", "text": text, "annotations": []}])
        if self.call is not None:
            name, arguments = self.call
            about = {"type": "function_call", "id": f"fc_{self.id}", "call_id": f"call-{self.id}"}
            item = {**about, "name": name, "arguments": arguments, "status": status}
        response = self.response(status, [item], count)
        if not self.stream:
            self.connection.answer(200, response)
            return
        self.event("response.output_item.done", output_index=0, item=item)
        if not self.options.no_finish:
            self.event(f"response.{status}", response=response)
        self.connection.finish()
