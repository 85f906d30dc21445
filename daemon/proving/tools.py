"""The steps with a tool: offered, it is called as its schema says, and its result is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from daemon.proving.events import loads
from daemon.proving.judging import (
    broken,
    but,
    malformed,
    marked,
    of_template,
    trouble,
    unspoken,
    weak,
    works,
)
from daemon.proving.turns import Dialect, Model, Result, Tool, Turn, User, Wanted
from daemon.proving.values import Ask, Call, Finding, Heard, Outcome, Subject, Talk, Told

PREFIX: Final = "tools-"

TOOL: Final = Tool(
    "count_crates",
    "Counts the crates of one thing in one warehouse.",
    {
        "type": "object",
        "properties": {
            "thing": {"type": "string", "description": "what is in the crates"},
            "warehouse": {"type": "string", "enum": ["north", "south"]},
        },
        "required": ["thing", "warehouse"],
        "additionalProperties": False,
    },
)
QUESTION: Final = (
    "How many crates of salt are in the north warehouse? Call the tool count_crates to find out."
)
NUMBER: Final = "4718"
RESULT: Final = f'{{"thing": "salt", "warehouse": "north", "crates": {NUMBER}}}'
_LIMIT: Final = 1024  # tokens: a model that thinks first must come to its call

WRITTEN: Final = re.compile(
    r"<tool_call>|<\|tool_call|<function[=_]|<invoke|\[TOOL_CALLS\]|<\|python_tag\|>"
    r"|<arg_key>|```tool_code|to=functions\."
)
"""Marks of a call that a model has written as it was trained to, and that nobody has read: Hermes
and Qwen, GLM, Llama, Mistral, Gemma, gpt-oss."""
LOOSE: Final = re.compile(
    r"<count_crates[\s>/]|\bcount_crates\s*\(\s*(thing|warehouse)\s*=|\"count_crates\""
)
"""What may be a call (Qwen2.5-Coder's element of the tool's name, Python, JSON), or mere talk of
the tool: it is one if the arguments follow."""


def written(text: str) -> str:
    """The beginning of a call that was written as text; "" if there is none."""
    if (mark := WRITTEN.search(text)) is not None:
        return mark[0]
    loose = LOOSE.search(text)
    rest = text[loose.start() :].casefold() if loose is not None else ""
    return loose[0] if loose is not None and "salt" in rest and "north" in rest else ""


def tool_round(dialect: Dialect, subject: Subject) -> Talk:
    """A whole round. Where the model does not call the tool by itself it is made to, so that all
    around it is proven even then."""
    step = PREFIX + dialect.name

    def ask(*turns: Turn, force: bool = False) -> tuple[Ask]:
        wanted = Wanted(turns, subject.limit(_LIMIT), TOOL, force)
        return (Ask(dialect.path, dialect.write(subject, wanted), subject.seconds),)

    (heard,) = yield ask(User(QUESTION))
    if (found := unspoken(step, dialect, subject, heard)) is not None:
        return found
    told = dialect.read(heard.data)
    first = judge_call(step, subject, heard, told)
    if first is not None:
        if first.outcome is not Outcome.BUT:
            return first
        (heard,) = yield ask(User(QUESTION), force=True)
        told = dialect.read(heard.data)
        found = judge_call(step, subject, heard, told, forced=True)
        if found is not None and found.outcome is Outcome.BUT:
            return replace(first, text=f"{first.text}, nor when it is made to")
        if found is not None:
            return found
    results = [Result(call, RESULT) for call in told.calls]
    (heard,) = yield ask(User(QUESTION), Model(told.text, tuple(told.calls)), *results)
    return judge_result(step, subject, heard, dialect.read(heard.data), first)


def judge_call(
    step: str, subject: Subject, heard: Heard, told: Told, *, forced: bool = False
) -> Finding | None:
    """The answer to which a call belongs; None where it is a good one. ``forced``: it had no
    choice, and did not manage by itself before."""
    if forced and (told.error or heard.status in (400, 422, 500, 501)):
        return weak(step, "the engine cannot make it call the tool", _weak_hint(subject))
    if (found := trouble(step, subject, heard)) is not None:
        return found
    if (found := malformed(step, subject, heard, told)) is not None:
        return found
    if told.calls:
        return _judge_calls(step, subject, told)
    if mark := written(told.text):
        text = f"the tool call arrives as text ({mark.strip()!r}), so no client runs it"
        rescue = f"or `ctl set {subject.model} rescue_tools=on`"
        return broken(step, text, f"{of_template(subject)}, {rescue}")
    if told.reason == "tools":
        return broken(step, f"it ended with {told.stop!r}, but no call came", of_template(subject))
    if told.reason == "length":
        what = "in thoughts" if told.thoughts and not told.text else "in talk"
        text = f"its answer was over {what} before it called the tool"
        return weak(step, text, "thinking off, or a larger context")
    return weak(step, "it never calls the tool", _weak_hint(subject))


def _judge_calls(step: str, subject: Subject, told: Told) -> Finding | None:
    for call in told.calls:
        given = loads(call.arguments)
        if not isinstance(given, dict):
            shown = call.arguments[:60]
            if told.reason == "length":
                text = f"its call was cut by the length of the answer: {shown!r}"
                return weak(step, text, "a larger context")
            text = f"the arguments of the call are no JSON object: {shown!r}"
            return broken(step, text, of_template(subject))
        if wrong := misfit(call, given):
            return weak(step, wrong, _weak_hint(subject))
    if told.reason == "length":
        return weak(step, "its answer did not end with the call, but by its length", "thinking off")
    if told.reason != "tools":
        text = f"it called a tool and ended with {told.stop!r}: clients stop there"
        return broken(step, text, of_template(subject))
    return None


def misfit(call: Call, given: Mapping[str, Any]) -> str:
    """What of a call does not fit what was offered; "" if all does."""
    if call.name != TOOL.name:
        return f"it calls {call.name[:40]!r}, which was not offered"
    known = TOOL.schema["properties"]
    missing = [name for name in TOOL.schema["required"] if name not in given]
    if missing:
        return f"its call leaves out {', '.join(missing)}"
    for name, value in given.items():
        if name not in known:
            return f"its call has the unknown argument {name[:40]!r}"
        if not isinstance(value, str):
            return f"its argument {name} is no text: {str(value)[:40]!r}"
        allowed = known[name].get("enum")
        if allowed and value not in allowed:
            return f"its argument {name} is {value[:40]!r}; {' or '.join(allowed)} was allowed"
    return ""


def judge_result(
    step: str, subject: Subject, heard: Heard, told: Told, first: Finding | None = None
) -> Finding:
    """The answer after the tool's result. ``first``: what was found before it was made to call."""
    found = trouble(step, subject, heard) or malformed(step, subject, heard, told)
    if found is not None:
        if found.outcome is Outcome.UNKNOWN:
            return found
        return broken(step, f"after the tool's result: {found.text}", found.hint)
    if first is not None:
        return replace(first, text=f"{first.text} (made to, it does: the round itself works)")
    if told.calls:
        return weak(step, "it got the tool's result and called it again", _weak_hint(subject))
    if (mark := marked(told)) != "":
        return but(step, f"{mark!r} arrives as text after the tool's result", of_template(subject))
    if not told.text:
        if told.reason == "length":
            return weak(step, "its thoughts about the result took the whole answer", "thinking off")
        return weak(step, "it says nothing after the tool's result", of_template(subject))
    if NUMBER not in re.sub(r"(?<=\d)[,. _'\u202f\u00a0](?=\d)", "", told.text):
        return weak(step, "it got the tool's result and did not use it", _weak_hint(subject))
    return works(step, "called as its schema says, and its result was used")


def _weak_hint(subject: Subject) -> str:
    return f"a larger model or a finer quantisation for agents; {of_template(subject)}"
