"""Answering as Ollama does: lines of JSON, or one object.

Source: Ollama's API documentation (docs/api.md). Durations are nanoseconds; those that nobody
measured here are left out by clients that find 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256

from daemon.dialects.events import (
    Call,
    CallEnd,
    CallPiece,
    CallStart,
    Event,
    Finish,
    Stop,
    Text,
    Thought,
    Usage,
    Whole,
)
from daemon.dialects.fields import Json, encode, loads
from daemon.dialects.messages_answer import arguments_of
from daemon.views import ModelCard

VERSION = "0.13.4"
"""The version of Ollama whose API this is; clients ask for it before they use newer fields, and
``codex --oss`` (0.169.0) refuses one below 0.13.4."""


def stamp(created: int) -> str:
    """Seconds since 1970 as Ollama writes them."""
    return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _reason(finish: Finish) -> str:
    return "length" if finish.stop is Stop.LENGTH else "stop"


def _counts(usage: Usage) -> Json:
    return {
        "total_duration": 0,
        "load_duration": 0,
        "prompt_eval_count": usage.prompt,
        "prompt_eval_duration": 0,
        "eval_count": usage.output,
        "eval_duration": 0,
    }


class OllamaWriter:
    """Lines of an answer. ``generate``: of ``/api/generate``, which has no messages."""

    media = b"application/x-ndjson"

    def __init__(self, model: str, created: int, *, generate: bool = False) -> None:
        self._head: Json = {"model": model, "created_at": stamp(created)}
        self._generate = generate
        self._call: CallStart | None = None
        self._pieces: list[str] = []
        self._finish = Finish(Stop.END)
        self._usage = Usage()

    def write(self, events: list[Event]) -> bytes:
        """The bytes that tell ``events``; a call is told when it is whole."""
        out: list[bytes] = []
        for event in events:
            if isinstance(event, Text):
                out.append(self._line(event.text))
            elif isinstance(event, Thought):
                out.append(self._line("", {"thinking": event.text}))
            elif isinstance(event, CallStart):
                self._call, self._pieces = event, []
            elif isinstance(event, CallPiece):
                self._pieces.append(event.text)
            elif isinstance(event, CallEnd):
                out.append(self._called())
            elif isinstance(event, Finish):
                self._finish = event
            elif isinstance(event, Usage):
                self._usage = event
        return b"".join(out)

    def end(self) -> bytes:
        """The last line, with the counts."""
        last = {"done": True, "done_reason": _reason(self._finish), **_counts(self._usage)}
        return encode({**self._head, **self._said("", {}), **last}) + b"\n"

    def wait(self) -> bytes:
        """A line that says nothing yet."""
        return self._line("")

    def _called(self) -> bytes:
        start, self._call = self._call, None
        if start is None or self._generate:
            return b""
        made = Call(start.id, start.name, "".join(self._pieces))
        return self._line("", {"tool_calls": [_call(made, start.index)]})

    def _line(self, text: str, more: Json | None = None) -> bytes:
        return encode({**self._head, **self._said(text, more or {}), "done": False}) + b"\n"

    def _said(self, text: str, more: Json) -> Json:
        if self._generate:
            return {"response": text, **more}
        return {"message": {"role": "assistant", "content": text, **more}}


def _call(made: Call, index: int) -> Json:
    function = {"index": index, "name": made.name, "arguments": arguments_of(made)}
    return {"id": made.id, "function": function}


def answer(whole: Whole, model: str, created: int, *, generate: bool = False) -> Json:
    """The whole answer."""
    head: Json = {"model": model, "created_at": stamp(created)}
    if generate:
        said: Json = {"response": whole.text}
        if whole.thought:
            said["thinking"] = whole.thought
    else:
        message: Json = {"role": "assistant", "content": whole.text}
        if whole.thought:
            message["thinking"] = whole.thought
        if whole.calls:
            message["tool_calls"] = [_call(made, at) for at, made in enumerate(whole.calls)]
        said = {"message": message}
    end = {"done": True, "done_reason": _reason(whole.finish), **_counts(whole.usage)}
    return {**head, **said, **end}


def loaded(model: str, created: int, *, generate: bool, unload: bool) -> bytes:
    """The answer to a request without a prompt."""
    said: Json = {"message": {"role": "assistant", "content": ""}}
    if generate:
        said = {"response": ""}
    end = {"done": True, "done_reason": "unload" if unload else "load"}
    return encode({"model": model, "created_at": stamp(created), **said, **end})


def embedded(body: bytes, model: str, *, old: bool = False) -> bytes | None:
    """``/api/embed``'s answer (``old``: ``/api/embeddings``') from that of ``/v1/embeddings``;
    None if that is none."""
    value = loads(body)
    items = value.get("data") if isinstance(value, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return None
    vectors = [item.get("embedding") for item in items]
    if old:
        return encode({"embedding": vectors[0] if vectors else []})
    usage = value.get("usage")
    count = usage.get("prompt_tokens", 0) if isinstance(usage, dict) else 0
    durations = {"total_duration": 0, "load_duration": 0, "prompt_eval_count": count}
    return encode({"model": model, "embeddings": vectors, **durations})


# ---------------------------------------------------------------- what there is


def version() -> bytes:
    """``GET /api/version``."""
    return encode({"version": VERSION})


def tags(cards: Iterable[ModelCard]) -> bytes:
    """``GET /api/tags``: every model, loaded or not."""
    return encode({"models": [_entry(card) for card in cards]})


def running(
    cards: Iterable[ModelCard], now: float | None = None, expires: str = "2318-01-01T00:00:00Z"
) -> bytes:
    """``GET /api/ps``: those that are loaded; ``expires``: when those are unloaded whose end is not
    known at ``now`` (Unix seconds), as in Ollama a far date for what stays."""
    models = [
        {
            **_entry(card),
            "expires_at": _expiry(card, now) or expires,
            "size": _taken(card),
            "size_vram": _taken(card),
            "context_length": card.context or 0,
        }
        for card in cards
        if card.state in ("ready", "draining")
    ]
    return encode({"models": models})


def show(card: ModelCard) -> bytes:
    """``POST /api/show``: what clients ask for capabilities and context."""
    family = str(card.facts.get("architecture") or card.engine or "unknown")
    abilities = ["embedding"] if card.kind == "embedding" else ["completion", "tools"]
    if card.kind == "vision":
        abilities.append("vision")
    info: Json = {"general.architecture": family}
    if card.context is not None:
        info[f"{family}.context_length"] = card.context
    return encode(
        {
            "modelfile": f"# served by modelport\nFROM {card.id}\n",
            "parameters": "",
            "template": "",
            "details": _details(card),
            "model_info": info,
            "capabilities": abilities,
            "modified_at": stamp(card.created),
        }
    )


def _entry(card: ModelCard) -> Json:
    return {
        "name": card.id,
        "model": card.id,
        "modified_at": stamp(card.created),
        "size": _size(card),
        # Ollama's own program shows the first twelve characters, and fails where there are none.
        "digest": sha256(card.id.encode()).hexdigest(),
        "details": _details(card),
    }


def _size(card: ModelCard) -> int:
    size = card.facts.get("size")
    return size if isinstance(size, int) else 0


def _taken(card: ModelCard) -> int:
    """Bytes that it takes now, else those of its file."""
    taken = card.facts.get("footprint")
    return taken if isinstance(taken, int) else _size(card)


def _expiry(card: ModelCard, now: float | None) -> str:
    left = card.facts.get("expires_in")
    return stamp(int(now + left)) if now is not None and isinstance(left, int) else ""


def _details(card: ModelCard) -> Json:
    family = str(card.facts.get("architecture") or card.engine or "unknown")
    return {
        "parent_model": "",
        "format": str(card.facts.get("format") or ""),
        "family": family,
        "families": [family],
        "parameter_size": str(card.facts.get("parameters") or ""),
        "quantization_level": str(card.facts.get("quantisation") or ""),
    }
