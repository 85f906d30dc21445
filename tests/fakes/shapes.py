"""How each dialect writes an answer, streamed or whole."""

from __future__ import annotations

import json
import os
import time

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
        if self.stream and not self.options.tool:
            self.chunk({"content": text})

    def calls(self) -> list[dict[str, object]]:
        """The tool call, if one was asked for."""
        function = {"name": self.options.tool, "arguments": "{}"}
        return [{"index": 0, "id": f"call-{self.id}", "type": "function", "function": function}]

    def end(self, text: str, count: int, finish: str) -> None:
        if self.options.tool:
            finish = "tool_calls"
        total = self.prompt + count
        usage = {"prompt_tokens": self.prompt, "completion_tokens": count, "total_tokens": total}
        if not self.stream:
            message: dict[str, object] = {"role": "assistant", "content": text}
            if self.options.reasoning:
                message["reasoning_content"] = self.options.reasoning
            if self.options.tool:
                message |= {"content": None, "tool_calls": self.calls()}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            body = self.envelope("chat.completion", choices=[choice], usage=usage)
            self.connection.answer(200, body)
            return
        if self.options.tool:
            self.chunk({"tool_calls": self.calls()})
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
            block = {"type": "text", "text": ""}
            self.event("content_block_start", index=0, content_block=block)

    def piece(self, text: str) -> None:
        if self.stream:
            delta = {"type": "text_delta", "text": text}
            self.event("content_block_delta", index=0, delta=delta)

    def end(self, text: str, count: int, finish: str) -> None:
        stop = "max_tokens" if finish == "length" else "end_turn"
        if not self.stream:
            content: list[object] = [{"type": "text", "text": text}]
            self.connection.answer(200, self.message(content, stop, count))
            return
        self.event("content_block_stop", index=0)
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
        if self.stream:
            where = {"item_id": f"item_{self.id}", "output_index": 0, "content_index": 0}
            self.event("response.output_text.delta", **where, delta=text)

    def end(self, text: str, count: int, finish: str) -> None:
        status = "incomplete" if finish == "length" else "completed"
        item = self.item(status, [{"type": "output_text", "text": text, "annotations": []}])
        response = self.response(status, [item], count)
        if not self.stream:
            self.connection.answer(200, response)
            return
        self.event("response.output_item.done", output_index=0, item=item)
        self.event(f"response.{status}", response=response)
        self.connection.finish()
