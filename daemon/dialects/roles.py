"""Messages in the order and the roles that a chat template takes.

Nothing is moved: what comes later in a conversation stays later in the prompt, so that the engine
need not read again what it has read. A system message in the middle becomes a part of the user's
turn at its place, in the form that Claude Code itself falls back to (recorded).
"""

from __future__ import annotations

from enum import Enum, auto

from daemon.dialects.fields import Json

_LEADING = ("system", "developer")


class Systems(Enum):
    """Where a template takes system messages."""

    ANYWHERE = auto()
    FIRST = auto()  # one, at the start
    NONE = auto()  # nowhere: their text begins the user's first message


def normal(
    messages: list[Json], systems: Systems, *, developer: bool = False, merge: bool = True
) -> list[Json]:
    """``messages`` as the template takes them. ``developer``: it knows that role; ``merge``:
    neighbours of one role become one message. The given messages are left as they are."""
    messages = [_renamed(message, developer=developer) for message in messages]
    if systems is not Systems.ANYWHERE:
        messages = _gathered(messages, systems)
    return _merged(messages) if merge else messages


def with_text(message: Json, text: str) -> Json:
    """``message`` with ``text`` behind its own."""
    return {**message, "content": _joined(message.get("content"), text)}


def text_of(content: object) -> str:
    """The text of a message's content, without images."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n\n".join([text for text in texts if isinstance(text, str)])
    return ""


def _renamed(message: Json, *, developer: bool) -> Json:
    if message.get("role") == "developer" and not developer:
        return {**message, "role": "system"}
    return message


def _gathered(messages: list[Json], systems: Systems) -> list[Json]:
    count = 0
    while count < len(messages) and messages[count].get("role") in _LEADING:
        count += 1
    first = "\n\n".join([text_of(message.get("content")) for message in messages[:count]])
    found: list[Json] = []
    if count and systems is Systems.FIRST:
        found.append({"role": messages[0]["role"], "content": first})
    elif first:
        found.append({"role": "user", "content": first})
    for message in messages[count:]:
        if message.get("role") in _LEADING:
            text = text_of(message.get("content"))
            reminder = f"<system-reminder>\n{text}\n</system-reminder>"
            if found and found[-1].get("role") == "user":
                found[-1] = with_text(found[-1], reminder)
            elif text:
                found.append({"role": "user", "content": reminder})
        elif (
            message.get("role") == "user" and systems is Systems.NONE and len(found) == 1 and first
        ):
            found[0] = {**message, "content": _joined(first, message.get("content"))}
            first = ""
        else:
            found.append(message)
    return found


def _merged(messages: list[Json]) -> list[Json]:
    """Neighbours of one role as one message; results stay apart, each has its call."""
    found: list[Json] = []
    for message in messages:
        last = found[-1] if found else None
        role = message.get("role")
        if (
            last is None
            or role != last.get("role")
            or role not in ("user", "assistant", "system")
            or last.get("tool_calls")
        ):
            found.append(message)
        else:
            content = _joined(last.get("content"), message.get("content"))
            both = {**last, **message, "content": content}
            thoughts = [item.get("reasoning_content") for item in (last, message)]
            if all(thoughts):
                both["reasoning_content"] = "\n".join(map(str, thoughts))
            found[-1] = both
    return found


def _joined(first: object, second: object) -> object:
    """Two contents as one; a string where both are."""
    if not second:
        return first
    if not first:
        return second
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_parts(first), *_parts(second)]


def _parts(content: object) -> list[object]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}]
