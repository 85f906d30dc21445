"""What one model (its template, its engine) needs of requests, as a value, and its application.

Requests come here as chat completions (:class:`Chat`), whatever the client speaks. The default
suits every chat template that was tried: of 61, each takes one system message at the start and
turns that alternate, many lose or refuse anything else (recorded).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from fnmatch import fnmatchcase
from typing import Any

from daemon.dialects import roles, schemas
from daemon.dialects.chat_request import Chat, text_part
from daemon.dialects.fields import Json, dumps, loads
from daemon.dialects.roles import Systems

EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
OUTPUT_FLOOR = 8192
"""Tokens: a file that an agent writes must fit into one answer."""
_EFFORTS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}
_KWARGS = "chat_template_kwargs"  # one field of many settings: thinking is among them
_UNSEEN = text_part("[An image, which you cannot see.]")
_NOTHING: Mapping[str, Any] = {}


class Off(Enum):
    """How thinking is switched off."""

    FIELD = auto()  # chat_template_kwargs.enable_thinking
    BLOCK = auto()  # and an empty think block as the answer's beginning
    WORD = auto()  # and /no_think behind the user's words (the first Qwen3 models)


class Schemas(Enum):
    """How tools' schemas are handed on."""

    FULL = auto()
    PLAIN = auto()  # without what grammar converters choke on


@dataclass(frozen=True, slots=True)
class Norms:
    """How requests are shaped for one model, and what its answers need.

    ``default``, ``with_tools`` and ``force`` are fields of request bodies: used where the request
    says nothing; the same, where it offers tools; always. ``strip`` is taken out before.
    ``output_floor`` (tokens) lifts the limit of requests with tools, ``output_cap`` holds all.
    """

    developer: bool = False  # the template knows this role
    systems: Systems = Systems.FIRST
    merge_turns: bool = True
    schemas: Schemas = Schemas.FULL
    allow_tools: tuple[str, ...] | None = None  # patterns; None: all
    thinking: bool | None = None  # None: as the request says, else the model's own way
    off: Off = Off.FIELD
    budget_field: str = ""  # where this engine takes a limit of thinking, in tokens
    effort: bool = False  # the template knows reasoning_effort
    default: Mapping[str, Any] = field(default_factory=dict)
    with_tools: Mapping[str, Any] = field(default_factory=dict)
    force: Mapping[str, Any] = field(default_factory=dict)
    strip: frozenset[str] = frozenset()
    output_floor: int = 0
    output_cap: int | None = None
    # answers
    blind: bool = False  # it is known to see no images
    rescue: bool = True  # tool calls written as text become calls
    starts_thinking: bool = False  # answers begin within a think block that the prompt opened
    bare_thinking: bool = False  # "Thinking Process:" is the beginning of thinking (Qwen3.5)
    loud: bool = False  # a tool call cut by the output limit is told in words


def apply(chat: Chat, norms: Norms) -> None:
    """Shape ``chat`` in place; what was left out is noted."""
    chat.body["messages"] = roles.normal(
        chat.messages, norms.systems, developer=norms.developer, merge=norms.merge_turns
    )
    _history(chat.messages)
    if norms.blind:
        _unseen(chat)
    _tools(chat, norms)
    _think(chat, norms)
    fields(chat.body, norms)


# ---------------------------------------------------------------- tools


def _history(messages: list[Json]) -> None:
    """Arguments of earlier calls that are no JSON object, as where the output limit cut one: for
    the sake of these engines refuse the whole conversation, each time (llama-server, recorded)."""
    for place, message in enumerate(messages):
        calls = message.get("tool_calls")
        if not isinstance(calls, list):
            continue
        mended = [_mended(call) for call in calls]
        if any(one is not call for one, call in zip(mended, calls, strict=True)):
            messages[place] = {**message, "tool_calls": mended}


def _unseen(chat: Chat) -> None:
    """Images for a model that sees none: it is told of those that a tool returned, and of earlier
    ones, since the engine would refuse the conversation for ever; one that the client asks about
    now is left to the engine to refuse."""
    messages = chat.messages
    for place, message in enumerate(messages):
        content = message.get("content")
        asked = place == len(messages) - 1 and (
            not place or messages[place - 1].get("role") != "tool"
        )
        if asked or not isinstance(content, list):
            continue
        parts = [_UNSEEN if _is_image(part) else part for part in content]
        if any(part is _UNSEEN for part in parts):
            messages[place] = {**message, "content": parts}
            chat.notes.append(f"messages.{place}: the model sees no images; left out.")


def _is_image(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "image_url"


def _mended(call: object) -> object:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        return call
    given = function.get("arguments")
    if isinstance(given, str):
        value = loads(given) if given.strip() else {}
        if isinstance(value, dict) and given.strip():
            return call
    else:
        value = given if given is not None else {}
    if not isinstance(value, dict):
        value = {"invalid_arguments": given} if given != "null" else {}
    return {**call, "function": {**function, "arguments": dumps(value)}}


def _tools(chat: Chat, norms: Norms) -> None:
    if not chat.tools:
        chat.body.pop("tools", None)
        _no_choice(chat.body)
        return
    kept = []
    for tool in chat.tools:
        function = tool.get("function")
        if not isinstance(function, dict) or tool.get("type", "function") != "function":
            chat.notes.append(f"tools: {tool.get('type')!r} is no function; left out.")
            continue
        name = str(function.get("name"))
        if norms.allow_tools is not None and not any(
            fnmatchcase(name, pattern) for pattern in norms.allow_tools
        ):
            chat.notes.append(f"tools: {name} is not among the model's allow_tools; left out.")
            continue
        if norms.schemas is Schemas.PLAIN:
            function = {**function, "parameters": schemas.parameters(function)}
        kept.append({**tool, "function": function})
    choice = chat.body.get("tool_choice")
    named = choice.get("function") if isinstance(choice, dict) else None
    if isinstance(named, dict):
        names = [tool["function"].get("name") for tool in kept]
        if named.get("name") not in names:
            _no_choice(chat.body)
    if kept:
        chat.body["tools"] = kept
    else:
        del chat.body["tools"]
        _no_choice(chat.body)


def _no_choice(body: Json) -> None:
    body.pop("tool_choice", None)
    body.pop("parallel_tool_calls", None)


# ---------------------------------------------------------------- thinking


def _think(chat: Chat, norms: Norms) -> None:
    body, wish = chat.body, chat.thinking
    given = body.get(_KWARGS)
    kwargs: Json = dict(given) if isinstance(given, dict) else {}
    on = norms.thinking
    if on is not False:
        said = kwargs.get("enable_thinking", wish.on)
        on = said if isinstance(said, bool) else on
    last = chat.messages[-1] if chat.messages else {}
    prefill = last.get("role") == "assistant" and not last.get("tool_calls")
    if prefill and on is not False:
        # llama.cpp refuses a begun answer where the model would think first.
        chat.notes.append("thinking: off, as the last message is the assistant's.")
        on = False
    if on is not None:
        kwargs["enable_thinking"] = on
    if on is False:
        _off(chat, norms.off, prefill=prefill)
    elif wish.budget is not None and norms.budget_field:
        body.setdefault(norms.budget_field, wish.budget)
    effort = wish.effort
    if norms.effort and effort is not None:
        kwargs.setdefault("reasoning_effort", _EFFORTS.get(effort, effort))
    if kwargs:
        body[_KWARGS] = kwargs


def _off(chat: Chat, off: Off, *, prefill: bool) -> None:
    messages = chat.messages
    if off is Off.BLOCK:
        if not prefill:
            messages.append({"role": "assistant", "content": EMPTY_THOUGHT})
        elif isinstance(messages[-1].get("content"), str):
            said = messages[-1]["content"]
            messages[-1] = {**messages[-1], "content": EMPTY_THOUGHT + said}
    elif off is Off.WORD:
        for place in range(len(messages) - 1, -1, -1):
            if messages[place].get("role") == "user":
                messages[place] = roles.with_text(messages[place], "/no_think")
                break


# ---------------------------------------------------------------- fields


def fields(body: Json, norms: Norms) -> None:
    """The model's settings of a request's fields, in place; of any request that generates text."""
    for name in norms.strip:
        body.pop(name, None)
    wanted = body.pop("max_completion_tokens", None)  # the newer name, not known to all engines
    if body.get("max_tokens") is None and wanted is not None:
        body["max_tokens"] = wanted
    tools = "tools" in body
    for name, value in {**norms.default, **(norms.with_tools if tools else _NOTHING)}.items():
        before = body.get(name)
        if before is None:
            body[name] = value
        elif name == _KWARGS and isinstance(before, dict) and isinstance(value, Mapping):
            body[name] = {**value, **before}
    for name, forced in norms.force.items():
        before = body.get(name)
        inside = isinstance(before, dict) and isinstance(forced, Mapping)
        body[name] = {**body[name], **forced} if inside else forced
    limit = body.get("max_tokens")
    if isinstance(limit, (int, float)) and limit < 0:  # LM Studio's clients: as much as there is
        del body["max_tokens"]
        limit = None
    if limit is None and norms.output_cap is not None:
        limit = norms.output_cap
    if isinstance(limit, (int, float)) and not isinstance(limit, bool):
        floor = norms.output_floor if tools else 0
        if norms.output_cap is not None:
            floor = min(floor, norms.output_cap)
            limit = min(limit, norms.output_cap)
        body["max_tokens"] = max(limit, floor)
    wanted = body.get("response_format")
    if norms.schemas is Schemas.PLAIN and isinstance(wanted, dict):
        body["response_format"] = schemas.answer_format(wanted)
