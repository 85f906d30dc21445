"""OpenAI's Responses, as chat completions.

Source: OpenAI's Responses API reference, and Codex's requests as recorded: the whole history in
each turn, ``developer`` messages first, ``additional_tools`` among the items. Nothing is stored
here, so what refers to a stored answer is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daemon.dialects.chat_request import (
    EFFORTS,
    Chat,
    Thinking,
    call,
    decoded_text,
    document,
    image_part,
    joined,
    json_format,
    streamed,
    take,
    text_part,
    unread,
)
from daemon.dialects.fields import Json, a_string, an_array, an_object, bad, dumps, number, whole
from daemon.dialects.tool_names import Kind, Names, Tool, wrapped

_ROLES = ("user", "assistant", "system", "developer")
_SEND_ALL = "Send the whole conversation in `input`, with store set to false."


def to_chat(body: Json) -> tuple[Chat, Names]:
    """What the chat engine is asked, and the table of its tools' names.

    Raises ProblemError (INVALID_REQUEST) for what cannot be understood or carried over.
    """
    _refuse(body)
    chat = Chat({"model": body.get("model"), "messages": []})
    names = Names()
    if body.get("tools") is not None:
        names.add(body["tools"], "tools")
    if body.get("instructions"):
        text = a_string(body["instructions"], "instructions")
        chat.messages.append({"role": "system", "content": text})
    given = body.get("input")
    if isinstance(given, str):
        chat.messages.append({"role": "user", "content": given})
    else:
        _Items(chat, names).read(an_array(given, "input"))
    if not chat.messages:
        raise bad("input: found nothing to answer.", "Send at least one message.")
    if names.functions:
        chat.body["tools"] = names.functions
        _choice(body, chat, names)
    _settings(body, chat)
    chat.notes += names.notes
    return chat, names


def _refuse(body: Json) -> None:
    if body.get("store") is True:
        raise bad("store: found true; answers are not stored here.", _SEND_ALL)
    for name in ("previous_response_id", "conversation", "prompt"):
        if body.get(name) is not None:
            raise bad(f"{name}: nothing is stored here that it could refer to.", _SEND_ALL)
    if body.get("background") is True:
        raise bad("background: found true; answers are given at once here.", "Leave it out.")


def _settings(body: Json, chat: Chat) -> None:
    limit = whole(body, "max_output_tokens")
    if limit is not None:
        if limit < 0:
            raise bad(f"max_output_tokens: found {limit}, allowed is 0 or more.")
        chat.body["max_tokens"] = limit
    for name in ("temperature", "top_p"):
        number(body, name)
    take(body, chat.body, "temperature", "top_p", "seed", "stop", "top_k", "min_p")
    streamed(body, chat.body)
    text = body.get("text")
    wanted = text.get("format") if isinstance(text, dict) else None
    if isinstance(wanted, dict):
        if wanted.get("type") == "json_schema":
            chat.body["response_format"] = json_format(
                wanted.get("schema"), wanted.get("name"), wanted.get("strict")
            )
        elif wanted.get("type") == "json_object":
            chat.body["response_format"] = {"type": "json_object"}
    reasoning = body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    if effort in EFFORTS:
        chat.thinking = Thinking(False if effort == "none" else None, None, effort)


def _choice(body: Json, chat: Chat, names: Names) -> None:
    choice = body.get("tool_choice")
    if isinstance(choice, str):
        if choice not in ("auto", "required", "none"):
            raise bad(f"tool_choice: found {choice!r}, allowed are auto, required, none.")
        chat.body["tool_choice"] = choice
    elif isinstance(choice, dict):
        kind = choice.get("type")
        if kind in ("function", "custom"):
            wanted = a_string(choice.get("name"), "tool_choice.name")
            named = {"name": _known(names, wanted, choice.get("namespace"))}
            chat.body["tool_choice"] = {"type": "function", "function": named}
        elif kind == "allowed_tools":
            _allowed(choice, chat, names)
        else:
            chat.notes.append(f"tool_choice: {kind!r} is not served here; left out.")
    if isinstance(body.get("parallel_tool_calls"), bool):
        chat.body["parallel_tool_calls"] = body["parallel_tool_calls"]


def _allowed(choice: Json, chat: Chat, names: Names) -> None:
    allowed = [
        _known(names, str(tool.get("name")), tool.get("namespace"))
        for tool in an_array(choice.get("tools"), "tool_choice.tools")
        if isinstance(tool, dict)
    ]
    kept = [tool for tool in names.functions if tool["function"]["name"] in allowed]
    if kept:
        chat.body["tools"] = kept
        chat.body["tool_choice"] = "required" if choice.get("mode") == "required" else "auto"


def _known(names: Names, name: str, namespace: object) -> str:
    """The flat name of a tool that is offered; else the name itself."""
    for flat, tool in names.tools.items():
        if tool.name == name and namespace in (tool.namespace, None):
            return flat
    return name


class _Items:
    """Reads the items of ``input`` in their order into messages."""

    def __init__(self, chat: Chat, names: Names) -> None:
        self._chat = chat
        self._names = names
        self._turn: Json | None = None  # the assistant's message that goes on
        self._thoughts: list[str] = []
        self._shown: list[Json] = []  # images of results, for a user's message behind them
        self._kinds: dict[str, Callable[[Json, str], None]] = {
            "message": self._message,
            "reasoning": self._reasoning,
            "function_call": self._function_call,
            "custom_tool_call": self._custom_call,
            "tool_search_call": self._search_call,
            "function_call_output": self._output,
            "custom_tool_call_output": self._output,
            "tool_search_output": self._search_output,
            "additional_tools": self._more_tools,
        }

    def read(self, items: list[Any]) -> None:
        for place, item in enumerate(items):
            path = f"input.{place}"
            kind = an_object(item, path).get("type") or ("message" if "role" in item else None)
            if kind == "item_reference":
                raise bad(f"{path}: nothing is stored here that it could refer to.", _SEND_ALL)
            known = self._kinds.get(str(kind))
            if known is not None:
                known(item, path)
            else:
                self._chat.notes.append(f"{path}: an item of type {kind!r} was left out.")
        self._show()

    # ------------------------------------------------------------ messages

    def _message(self, item: Json, path: str) -> None:
        role, content = item.get("role"), item.get("content")
        if role not in _ROLES:
            raise bad(f"{path}.role: found {role!r}, allowed are {', '.join(_ROLES)}.")
        if isinstance(content, str):
            parts = [text_part(content)] if content else []
        else:
            parts = [
                part
                for place, inner in enumerate(an_array(content, f"{path}.content"))
                for part in self._parts(inner, f"{path}.content.{place}")
            ]
        if role == "assistant":
            text = "".join([part["text"] for part in parts if part["type"] == "text"])
            turn = self._assistant(new="tool_calls" not in (self._turn or {}))
            # Behind a call, whose result must follow it at once: no message in between.
            turn["content"] = "\n\n".join([part for part in (turn["content"], text) if part])
        else:
            self._turn, self._thoughts = None, []
            self._show()
            if parts:
                self._chat.messages.append({"role": role, "content": joined(parts)})

    def _assistant(self, *, new: bool = False) -> Json:
        """The assistant's message that goes on; ``new``: with text of its own."""
        if self._turn is None or (new and self._turn["content"]):
            self._show()
            self._turn = {"role": "assistant", "content": None}
            self._chat.messages.append(self._turn)
        if self._thoughts:
            before = self._turn.get("reasoning_content")
            thoughts = [before, *self._thoughts] if before else self._thoughts
            self._turn["reasoning_content"] = "\n".join(thoughts)
            self._thoughts = []
        return self._turn

    def _show(self) -> None:
        if self._shown:
            self._chat.messages.append({"role": "user", "content": self._shown})
            self._shown = []

    def _parts(self, part: object, path: str, *, strict: bool = True) -> list[Json]:
        """``strict``: a file that cannot be read is an error; of what a tool returned, the model is
        told."""
        part = an_object(part, path)
        kind = part.get("type")
        if kind in ("input_text", "output_text", "text", "summary_text", "reasoning_text"):
            text = a_string(part.get("text"), f"{path}.text")
            return [text_part(text)] if text else []
        if kind == "refusal":
            return [text_part(str(part.get("refusal") or ""))]
        if kind == "input_image":
            return [_image(part, path)]
        if kind == "input_file":
            found = _file(part, path)
            if found is None and strict:
                raise bad(
                    f"{path}: this file cannot be read by a local model.",
                    "Send its text as file_data of type text/plain, or images of its pages.",
                )
            return [unread(part.get("filename")) if found is None else found]
        self._chat.notes.append(f"{path}: a part of type {kind!r} was left out.")
        return []

    def _reasoning(self, item: Json, path: str) -> None:
        for name in ("content", "summary"):  # the one if there is one, else the other
            parts = an_array(item.get(name) or [], f"{path}.{name}")
            texts = [
                part["text"]
                for part in parts
                if isinstance(part, dict) and isinstance(part.get("text"), str)
            ]
            if texts:
                self._thoughts += texts
                return

    # ------------------------------------------------------------ tools

    def _call(self, item: Json, path: str, tool: Tool, arguments: str) -> None:
        known = a_string(item.get("call_id"), f"{path}.call_id")
        turn = self._assistant()
        turn.setdefault("tool_calls", []).append(call(self._names.flat(tool), known, arguments))

    def _tool(self, item: Json, path: str, kind: Kind = Kind.FUNCTION) -> Tool:
        namespace = item.get("namespace")
        name = a_string(item.get("name"), f"{path}.name")
        return Tool(name, namespace if isinstance(namespace, str) else None, kind)

    def _function_call(self, item: Json, path: str) -> None:
        arguments = item.get("arguments")
        text = arguments if isinstance(arguments, str) else dumps(arguments or {})
        self._call(item, path, self._tool(item, path), text or "{}")

    def _custom_call(self, item: Json, path: str) -> None:
        text = a_string(item.get("input"), f"{path}.input")
        self._call(item, path, self._tool(item, path, Kind.CUSTOM), wrapped(text))

    def _search_call(self, item: Json, path: str) -> None:
        tool = Tool("tool_search", None, Kind.SEARCH)
        self._call(item, path, tool, dumps(item.get("arguments") or {}))

    def _output(self, item: Json, path: str) -> None:
        known = a_string(item.get("call_id"), f"{path}.call_id")
        output = item.get("output")
        texts, images = [], []
        if isinstance(output, list):
            for place, inner in enumerate(output):
                for part in self._parts(inner, f"{path}.output.{place}", strict=False):
                    if part["type"] == "text":
                        texts.append(part["text"])
                    else:
                        images.append(part)
        elif output is not None:
            texts.append(output if isinstance(output, str) else dumps(output))
        if images:
            texts.append(f"[{len(images)} image(s): see the next message]")
            self._shown += [text_part("An image that the tool returned:"), *images]
        self._answer(known, "\n".join(texts))

    def _answer(self, known: str, text: str) -> None:
        self._turn = None
        self._chat.messages.append({"role": "tool", "tool_call_id": known, "content": text})

    def _search_output(self, item: Json, path: str) -> None:
        before = len(self._names.functions)
        self._names.add(item.get("tools") or [], f"{path}.tools")
        found = [tool["function"]["name"] for tool in self._names.functions[before:]]
        if isinstance(item.get("call_id"), str):
            text = "These tools are available now: " + ", ".join(found) if found else "None found."
            self._answer(item["call_id"], text)

    def _more_tools(self, item: Json, path: str) -> None:
        self._names.add(item.get("tools"), f"{path}.tools")


def _image(part: Json, path: str) -> Json:
    url = part.get("image_url")
    if isinstance(url, dict):
        url = url.get("url")
    if not isinstance(url, str):
        raise bad(f"{path}.image_url: found none.", "Send a data: URL; no files are kept here.")
    return image_part(url, part.get("detail"))


def _file(part: Json, path: str) -> Json | None:
    data, name = part.get("file_data"), part.get("filename")
    if isinstance(data, str):
        head, comma, rest = data.partition(",")
        if not comma:
            return document(decoded_text(data, f"{path}.file_data"), name)
        if head.startswith("data:text/") or "json" in head:
            return document(decoded_text(rest, f"{path}.file_data"), name)
    return None
