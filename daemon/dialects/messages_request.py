"""Anthropic's messages, as chat completions.

Source: Anthropic's Messages API reference, and Claude Code's requests as recorded: ``system`` in
the middle of ``messages``, deferred tools, fields that no reference lists.
"""

from __future__ import annotations

from typing import Any

from daemon.dialects.chat_request import (
    EFFORTS,
    Chat,
    Thinking,
    call,
    decoded_text,
    document,
    function_tool,
    image_part,
    joined,
    json_format,
    streamed,
    strings,
    take,
    text_part,
    unread,
)
from daemon.dialects.fields import (
    Json,
    a_string,
    an_array,
    an_object,
    bad,
    dumps,
    number,
    whole,
    wrong,
)

_ROLES = ("user", "assistant", "system")
_ATTRIBUTION = "x-anthropic-billing-header:"
_SEARCHES = "tool_search_tool"  # Anthropic's own search for deferred tools


def to_chat(body: Json, *, counting: bool = False) -> Chat:
    """What the chat engine is asked. ``counting``: a count_tokens request, without ``max_tokens``.

    Raises ProblemError (INVALID_REQUEST) for what cannot be understood or carried over.
    """
    chat = Chat({"model": body.get("model"), "messages": []})
    _system(body.get("system"), chat)
    messages = an_array(body.get("messages"), "messages")
    if not messages:
        raise bad("messages: found an empty array.", "Send at least one message.")
    for place, message in enumerate(messages):
        path, last = f"messages.{place}", place == len(messages) - 1
        _message(an_object(message, path), path, chat, last=last)
    if all(message["role"] == "system" for message in chat.messages):
        raise bad("messages: found nothing to answer.", "Send at least one message with content.")
    _tools(body, messages, chat)
    chat.thinking = _thinking(body)
    if not counting:
        _sampling(body, chat.body)
        streamed(body, chat.body)
    for name in ("mcp_servers", "container"):
        if body.get(name):
            chat.notes.append(f"{name} is not served here; left out.")
    return chat


def _sampling(body: Json, into: Json) -> None:
    limit = whole(body, "max_tokens")
    if limit is not None:
        if limit < 0:
            raise bad(f"max_tokens: found {limit}, allowed is 0 or more.")
        into["max_tokens"] = limit
    for name in ("temperature", "top_p", "top_k"):
        number(body, name)
    take(body, into, "temperature", "top_p", "top_k")
    stops = strings(body.get("stop_sequences"))
    if stops:
        into["stop"] = stops
    output = body.get("output_config")
    wanted = output.get("format") if isinstance(output, dict) else None
    wanted = wanted or body.get("output_format")  # its name in an earlier beta
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        into["response_format"] = json_format(wanted.get("schema"))


def _thinking(body: Json) -> Thinking:
    thinking = body.get("thinking")
    output = body.get("output_config")
    effort = output.get("effort") if isinstance(output, dict) else None
    effort = effort if effort in EFFORTS else None
    if not isinstance(thinking, dict):
        return Thinking(effort=effort)
    kind = thinking.get("type")
    if kind == "disabled":
        return Thinking(on=False)
    # "adaptive" leaves it to the model.
    budget = thinking.get("budget_tokens")
    budget = budget if kind == "enabled" and type(budget) is int and budget > 0 else None
    return Thinking(True if kind == "enabled" else None, budget, effort)


# ---------------------------------------------------------------- messages


def _system(system: object, chat: Chat) -> None:
    if system is None or system == "":
        return
    texts = [without_attribution(text) for text in _texts(system, "system")]
    texts = [text for text in texts if text]
    if texts:
        chat.messages.append({"role": "system", "content": "\n\n".join(texts)})


def without_attribution(text: str) -> str:
    """A system text without Claude Code's line about itself: its digits differ from session to
    session, title to subagent, so that an engine would read the whole prompt anew (recorded)."""
    return text.partition("\n")[2] if text.startswith(_ATTRIBUTION) else text


def _texts(value: object, path: str) -> list[str]:
    """The texts of a string or of text blocks."""
    if isinstance(value, str):
        return [value]
    texts = []
    for place, block in enumerate(an_array(value, path)):
        at = f"{path}.{place}"
        if an_object(block, at).get("type") != "text":
            raise bad(f"{at}.type: found {block.get('type')!r}, allowed is 'text'.")
        texts.append(a_string(block.get("text"), f"{at}.text"))
    return [text for text in texts if text]


def _message(message: Json, path: str, chat: Chat, *, last: bool) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        # Claude Code knows this very sentence, and sends its request again in another form.
        raise bad(f"{path}.role: Input should be 'user' or 'assistant'")
    if isinstance(content, str):
        chat.messages.append({"role": role, "content": content})
    elif not isinstance(content, list):
        raise wrong(f"{path}.content", content, "a string or an array")
    elif role == "system":
        texts = _texts(content, f"{path}.content")
        chat.messages.append({"role": "system", "content": "\n\n".join(texts)})
    elif role == "assistant":
        _assistant(content, f"{path}.content", chat)
    else:
        _user(content, f"{path}.content", chat, last=last)


def _assistant(blocks: list[Any], path: str, chat: Chat) -> None:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for place, block in enumerate(blocks):
        at = f"{path}.{place}"
        kind = an_object(block, at).get("type")
        if kind == "text":
            texts.append(a_string(block.get("text"), f"{at}.text"))
        elif kind == "thinking":
            thoughts.append(a_string(block.get("thinking"), f"{at}.thinking"))
        elif kind == "tool_use":
            name, known = a_string(block.get("name"), f"{at}.name"), block.get("id")
            arguments = dumps(an_object(block.get("input") or {}, f"{at}.input"))
            calls.append(call(name, a_string(known, f"{at}.id"), arguments))
        elif kind != "redacted_thinking":
            chat.notes.append(f"{at}: a block of type {kind!r} was left out.")
    message: Json = {"role": "assistant", "content": "".join(texts)}
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    if calls or message["content"] or any(thoughts):
        chat.messages.append(message)


def _user(blocks: list[Any], path: str, chat: Chat, *, last: bool) -> None:
    """Results first, each a message of its own: they must follow the calls at once.

    What cannot be read is refused in the ``last`` message alone: of what a tool returned, or of
    what was refused before, the model is told, since the conversation could never go on otherwise.
    """
    parts: list[Json] = []
    shown: list[Json] = []  # images of results, which only a user's message may carry
    for place, block in enumerate(blocks):
        at = f"{path}.{place}"
        if an_object(block, at).get("type") == "tool_result":
            known = a_string(block.get("tool_use_id"), f"{at}.tool_use_id")
            result = _result(block, at, shown, chat)
            chat.messages.append({"role": "tool", "tool_call_id": known, "content": result})
        else:
            parts += _parts(block, at, chat, strict=last)
    parts = shown + parts
    if parts:
        chat.messages.append({"role": "user", "content": joined(parts)})


def _result(block: Json, path: str, shown: list[Json], chat: Chat) -> str:
    content = block.get("content")
    if content is None or isinstance(content, str):
        text = content or ""
    else:
        texts, images = [], 0
        for place, inner in enumerate(an_array(content, f"{path}.content")):
            for part in _parts(an_object(inner, f"{path}.content.{place}"), path, chat):
                if part["type"] == "text":
                    texts.append(part["text"])
                else:
                    images += 1
                    shown.append(text_part("An image that the tool returned:"))
                    shown.append(part)
        if images:
            texts.append(f"[{images} image(s): see the next message]")
        text = "\n".join(texts)
    if block.get("is_error") is True and not text.lower().startswith("error"):
        text = f"Error: {text}"
    return text


def _parts(block: Json, path: str, chat: Chat, *, strict: bool = False) -> list[Json]:
    """What the model is shown of a block. ``strict``: what cannot be read is an error."""
    kind = block.get("type")
    if kind == "text":
        text = a_string(block.get("text"), f"{path}.text")
        return [text_part(text)] if text else []
    if kind == "image":
        return [_image(an_object(block.get("source"), f"{path}.source"), path)]
    if kind == "document":
        return _document(block, path, chat, strict=strict)
    if kind == "search_result":
        texts = _texts(block.get("content"), f"{path}.content")
        return [document("\n".join(texts), block.get("title"))]
    if kind == "tool_reference":
        return [text_part(f"The tool {block.get('tool_name')} is available now.")]
    chat.notes.append(f"{path}: a block of type {kind!r} was left out.")
    return []


def _image(source: Json, path: str) -> Json:
    kind = source.get("type")
    if kind == "base64":
        media = a_string(source.get("media_type"), f"{path}.source.media_type")
        return image_part(f"data:{media};base64,{a_string(source.get('data'), path)}")
    if kind == "url":
        return image_part(a_string(source.get("url"), f"{path}.source.url"))
    raise bad(
        f"{path}.source.type: found {kind!r}, allowed are 'base64' and 'url'.",
        "Files kept at Anthropic cannot be read here.",
    )


def _document(block: Json, path: str, chat: Chat, *, strict: bool) -> list[Json]:
    source = an_object(block.get("source"), f"{path}.source")
    kind, media = source.get("type"), source.get("media_type")
    title = block.get("title")
    if kind == "text":
        return [document(a_string(source.get("data"), f"{path}.source.data"), title)]
    if kind == "content":
        content = source.get("content")
        if isinstance(content, str):
            return [document(content, title)]
        return [
            part
            for place, inner in enumerate(an_array(content, f"{path}.source.content"))
            for part in _parts(
                an_object(inner, f"{path}.source.content.{place}"), path, chat, strict=strict
            )
        ]
    if kind == "base64" and isinstance(media, str) and media.startswith("text/"):
        return [document(decoded_text(source.get("data"), f"{path}.source.data"), title)]
    what = media if isinstance(media, str) else kind
    if not strict:
        chat.notes.append(f"{path}: a document of type {what} was left out.")
        return [unread(what)]
    raise bad(
        f"{path}: a document of type {what} cannot be read by a local model.",
        "Send its text, or images of its pages.",
    )


# ---------------------------------------------------------------- tools


def _tools(body: Json, messages: list[Any], chat: Chat) -> None:
    tools = body.get("tools")
    if tools is None:
        return
    tools = an_array(tools, "tools")
    found = [an_object(tool, f"tools.{place}") for place, tool in enumerate(tools)]
    # A deferred tool is offered once the conversation has met it. Where the search for them is
    # Anthropic's own, nobody searches: then all are offered.
    searched = any(str(tool.get("type")).startswith(_SEARCHES) for tool in found)
    met = None if searched else _met(messages)
    offered = []
    for place, tool in enumerate(found):
        kind = tool.get("type")
        if kind not in (None, "custom"):
            chat.notes.append(f"tools.{place}: the server tool {kind!r} is not served here.")
            continue
        name = a_string(tool.get("name"), f"tools.{place}.name")
        if tool.get("defer_loading") is True and met is not None and name not in met:
            continue
        schema = tool.get("input_schema")
        strict = tool.get("strict")
        offered.append(function_tool(name, tool.get("description"), schema, strict))
    if offered:
        chat.body["tools"] = offered
        _choice(body.get("tool_choice"), chat.body)


def _met(messages: list[Any]) -> set[str]:
    """Names of deferred tools that a result referred to or that were called."""
    met: set[str] = set()
    for message in messages:
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            inner = block.get("content")
            if block.get("type") == "tool_use":
                met.add(str(block.get("name")))
            elif block.get("type") == "tool_result" and isinstance(inner, list):
                for item in inner:
                    if isinstance(item, dict) and item.get("type") == "tool_reference":
                        met.add(str(item.get("tool_name")))
    return met


def _choice(choice: object, into: Json) -> None:
    if choice is None:
        return
    choice = an_object(choice, "tool_choice")
    kind = choice.get("type")
    if kind == "tool":
        name = a_string(choice.get("name"), "tool_choice.name")
        into["tool_choice"] = {"type": "function", "function": {"name": name}}
    else:
        words = {"auto": "auto", "any": "required", "none": "none"}
        if not isinstance(kind, str) or kind not in words:
            raise bad(f"tool_choice.type: found {kind!r}, allowed are auto, any, tool, none.")
        into["tool_choice"] = words[kind]
    if choice.get("disable_parallel_tool_use") is True:
        into["parallel_tool_calls"] = False
