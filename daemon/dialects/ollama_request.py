"""Ollama's chat, generate and embed, as chat completions and embeddings.

Source: Ollama's API documentation (docs/api.md): a stream unless ``stream`` is false, options in a
table of their own, calls without ids, images as bare base64.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from daemon.dialects.chat_request import (
    EFFORTS,
    Chat,
    Thinking,
    call,
    image_part,
    json_format,
    take,
    text_part,
    tool_objects,
)
from daemon.dialects.fields import Json, a_string, an_array, an_object, bad, dumps, number

_OPTIONS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
)
_KINDS = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)


@dataclass(frozen=True, slots=True)
class LoadAsked:
    """A request without a prompt: load the model, or unload it. ``keep_alive``: as it was sent
    (seconds, or "5m"); None: not said."""

    keep_alive: object = None

    @property
    def unload(self) -> bool:
        """A keep-alive of nothing: be gone at once."""
        return self.keep_alive in (0, "0", "0s", "0m")


def load_asked(body: Json) -> LoadAsked | None:
    """Is this no question, but an order to load?"""
    if body.get("messages") or body.get("prompt") or body.get("images"):
        return None
    return LoadAsked(body.get("keep_alive"))


def chat_to_chat(body: Json) -> Chat:
    """``/api/chat``. Raises ProblemError (INVALID_REQUEST)."""
    chat = Chat({"model": body.get("model"), "messages": []})
    names = _CallIds()
    for place, message in enumerate(an_array(body.get("messages"), "messages")):
        path = f"messages.{place}"
        chat.messages.append(_message(an_object(message, path), path, names))
    tools = body.get("tools")
    if tools:
        chat.body["tools"] = tool_objects(tools)
    _settings(body, chat)
    return chat


def generate_to_chat(body: Json) -> Chat:
    """``/api/generate``. Raises ProblemError (INVALID_REQUEST)."""
    _refuse(body, "suffix", "raw", "context")
    chat = Chat({"model": body.get("model"), "messages": []})
    if body.get("system"):
        text = a_string(body["system"], "system")
        chat.messages.append({"role": "system", "content": text})
    prompt = a_string(body.get("prompt") or "", "prompt")
    chat.messages.append({"role": "user", "content": _content(prompt, body, "images")})
    _settings(body, chat)
    return chat


def raw_to_completion(body: Json) -> Chat:
    """``/api/generate`` with ``raw``, as editors send what is to be filled in: a prompt in the
    model's own marks, for an engine that serves completions. Its ``messages`` are none.

    Raises ProblemError (INVALID_REQUEST).
    """
    _refuse(body, "suffix", "context", "images")
    chat = Chat({"model": body.get("model"), "prompt": a_string(body.get("prompt"), "prompt")})
    _settings(body, chat)
    return chat


def _refuse(body: Json, *names: str) -> None:
    for name in names:
        if body.get(name):
            raise bad(f"{name}: this model's engine cannot do that here.", "Leave it out.")


def embed_to_embeddings(body: Json) -> Json:
    """``/api/embed`` (``input``) and the older ``/api/embeddings`` (``prompt``)."""
    given = body.get("input", body.get("prompt"))
    if not isinstance(given, (str, list)):
        raise bad("input: allowed is a string or an array of strings.")
    into: Json = {"model": body.get("model"), "input": given}
    take(body, into, "dimensions")
    return into


class _CallIds:
    """Ollama's calls have no ids: results belong to the calls in their order."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[tuple[str, str]] = []

    def call(self, name: str, known: object) -> str:
        self._count += 1
        own = known if isinstance(known, str) and known else f"call_{self._count}"
        self._open.append((own, name))
        return own

    def result(self, message: Json) -> str:
        known, name = message.get("tool_call_id"), message.get("tool_name") or message.get("name")
        for place, (own, called) in enumerate(self._open):
            if own == known or (known is None and (name is None or called == name)):
                del self._open[place]
                return own
        return known if isinstance(known, str) else f"call_{self._count}"


def _message(message: Json, path: str, names: _CallIds) -> Json:
    role = a_string(message.get("role"), f"{path}.role")
    text = a_string(message.get("content") or "", f"{path}.content")
    if role == "tool":
        return {"role": "tool", "tool_call_id": names.result(message), "content": text}
    made: Json = {"role": role, "content": _content(text, message, f"{path}.images")}
    if isinstance(message.get("thinking"), str) and message["thinking"]:
        made["reasoning_content"] = message["thinking"]
    calls = message.get("tool_calls")
    if calls:
        made["tool_calls"] = []
        for place, item in enumerate(an_array(calls, f"{path}.tool_calls")):
            at = f"{path}.tool_calls.{place}"
            function = an_object(an_object(item, at).get("function"), f"{at}.function")
            name = a_string(function.get("name"), f"{at}.function.name")
            given = function.get("arguments") or {}
            arguments = given if isinstance(given, str) else dumps(given)
            made["tool_calls"].append(call(name, names.call(name, item.get("id")), arguments))
        made["content"] = made["content"] or None
    return made


def _content(text: str, message: Json, path: str) -> Any:
    images = message.get("images")
    if not images:
        return text
    parts = [text_part(text)] if text else []
    for place, image in enumerate(an_array(images, path)):
        parts.append(image_part(_url(a_string(image, f"{path}.{place}"), f"{path}.{place}")))
    return parts


def _url(image: str, path: str) -> str:
    if image.startswith(("data:", "http://", "https://")):
        return image
    try:
        head = "".join(image[:64].split())[:32]
        start = base64.b64decode(head + "=" * (-len(head) % 4), validate=True)
    except ValueError as error:
        raise bad(f"{path}: found what is no base64.") from error
    kind = next((kind for sign, kind in _KINDS if start.startswith(sign)), "image/png")
    return f"data:{kind};base64,{image}"


def _settings(body: Json, chat: Chat) -> None:
    options = an_object(body.get("options") or {}, "options")
    for name in ("temperature", "num_predict"):
        number(options, name)
    take(options, chat.body, *_OPTIONS, repeat_penalty="repeat_penalty")
    limit = number(options, "num_predict")
    if limit is not None and limit > 0:  # -1 and -2: as much as there is
        chat.body["max_tokens"] = int(limit)
    if "num_ctx" in options:
        chat.notes.append("options.num_ctx is the model's ctx here; left out.")
    if body.get("template"):
        chat.notes.append("template: the model's own is used here; left out.")
    wanted = body.get("format")
    if wanted == "json":
        chat.body["response_format"] = {"type": "json_object"}
    elif isinstance(wanted, dict):
        chat.body["response_format"] = json_format(wanted)
    think = body.get("think")
    if isinstance(think, bool):
        chat.thinking = Thinking(on=think)
    elif think in EFFORTS:
        chat.thinking = Thinking(True, None, think)
    if body.get("stream") is not False:
        chat.body["stream"] = True
        chat.body["stream_options"] = {"include_usage": True}
