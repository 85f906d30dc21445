"""Requests in which something is of another kind than it should be: each is served, or refused with
a word, and none raises."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.problems import ProblemError
from daemon.dialects import counting, manner
from daemon.dialects.fields import encode
from daemon.dialects.norms import Norms, Off, Schemas
from daemon.dialects.roles import Systems
from daemon.dialects.shapes import Shape
from daemon.dialects.translator import MESSAGES_PATH, PATH, About, counted, translate, waiting

ABOUT = About("req_1", 1)
SCHEMA = {"type": "object", "properties": {"a": {"allOf": [{"type": "string", "pattern": "x"}]}}}
FUNCTION = {"type": "function", "function": {"name": "n", "parameters": SCHEMA}}
CALL = {"id": "i", "type": "function", "function": {"name": "n", "arguments": "{}"}}
PNG = "iVBORw0KGgo="
URL = f"data:image/png;base64,{PNG}"


def text(words: str = "x", kind: str = "text") -> dict[str, str]:
    return {"type": kind, "text": words}


# Each with everything that a reader looks at.
RICH: dict[Shape, dict[str, Any]] = {
    Shape.MESSAGES: {
        "model": "m",
        "max_tokens": 5,
        "system": [text()],
        "thinking": {"type": "enabled", "budget_tokens": 5},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        "stop_sequences": ["a"],
        "tool_choice": {"type": "tool", "name": "n", "disable_parallel_tool_use": True},
        "tools": [
            {"name": "n", "description": "d", "input_schema": SCHEMA, "defer_loading": True},
            {"type": "tool_search_tool_regex", "name": "q"},
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    text(),
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                    },
                    {
                        "type": "document",
                        "title": "t",
                        "source": {"type": "content", "content": [text()]},
                    },
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "text/plain", "data": "YQ=="},
                    },
                    {"type": "search_result", "content": [text()]},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    text(),
                    {"type": "tool_use", "id": "i", "name": "n", "input": {"a": "b"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "i",
                        "is_error": True,
                        "content": [
                            text(),
                            {"type": "tool_reference", "tool_name": "n"},
                            {"type": "image", "source": {"type": "url", "url": "http://x"}},
                        ],
                    }
                ],
            },
            {"role": "system", "content": [text()]},
        ],
    },
    Shape.RESPONSES: {
        "model": "m",
        "instructions": "i",
        "max_output_tokens": 5,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}},
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "f"}],
        },
        "tools": [
            {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True},
            {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "g"}]},
            {"type": "custom", "name": "p", "format": {"type": "grammar", "definition": "x"}},
            {"type": "tool_search", "execution": "client", "parameters": {}},
            {"type": "web_search"},
        ],
        "input": [
            {"type": "message", "role": "developer", "content": [text(kind="input_text")]},
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": URL, "detail": "low"},
                    {"type": "input_file", "file_data": "data:text/plain;base64,YQ=="},
                    {"type": "refusal", "refusal": "r"},
                ],
            },
            {
                "type": "reasoning",
                "summary": [text(kind="summary_text")],
                "content": [text(kind="reasoning_text")],
            },
            {"type": "function_call", "call_id": "c", "name": "g", "namespace": "ns"},
            {"type": "custom_tool_call", "call_id": "d", "name": "p", "input": "x"},
            {"type": "tool_search_call", "call_id": "e", "arguments": {"q": 1}},
            {"type": "function_call_output", "call_id": "c", "output": [text(kind="input_text")]},
            {
                "type": "tool_search_output",
                "call_id": "e",
                "tools": [{"type": "function", "name": "h"}],
            },
            {"type": "additional_tools", "tools": [{"type": "function", "name": "k"}]},
            {"type": "custom_tool_call_output", "call_id": "d", "output": "x"},
        ],
    },
    Shape.CHAT: {
        "model": "m",
        "max_completion_tokens": 5,
        "chat_template_kwargs": {"a": 1},
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        "tool_choice": {"type": "function", "function": {"name": "n"}},
        "tools": [FUNCTION],
        "stream_options": {"include_usage": True},
        "stop": ["a"],
        "messages": [
            {"role": "developer", "content": [text()]},
            {"role": "user", "content": [text(), {"type": "image_url", "image_url": {"url": URL}}]},
            {"role": "assistant", "content": None, "reasoning_content": "t", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "i", "content": "r"},
            {"role": "system", "content": "q"},
            {"role": "assistant", "content": "begun"},
        ],
    },
    Shape.COMPLETIONS: {"model": "m", "prompt": ["x"], "max_tokens": 5, "n": 1},
    Shape.OLLAMA_CHAT: {
        "model": "m",
        "think": "high",
        "format": SCHEMA,
        "options": {"temperature": 1, "num_predict": 5, "stop": ["a"]},
        "tools": [FUNCTION],
        "messages": [
            {"role": "user", "content": "x", "images": [PNG]},
            {
                "role": "assistant",
                "content": "",
                "thinking": "t",
                "tool_calls": [{"function": {"name": "n", "arguments": {"a": 1}}}],
            },
            {"role": "tool", "tool_name": "n", "content": "r"},
        ],
    },
    Shape.OLLAMA_GENERATE: {
        "model": "m",
        "prompt": "p",
        "system": "s",
        "raw": False,
        "options": {},
    },
}
NORMS = [
    Norms(),
    Norms(
        schemas=Schemas.PLAIN,
        thinking=False,
        off=Off.WORD,
        output_floor=50,
        output_cap=100,
        effort=True,
        budget_field="b",
    ),
    Norms(systems=Systems.NONE, thinking=False, off=Off.BLOCK, allow_tools=("n*",)),
    Norms(systems=Systems.ANYWHERE, merge_turns=False, developer=True, loud=True),
]
JUNK = [None, 0, -1, 1.5, 1e300, True, "", "x", [], [None], [1], ["x"], [{}], {}, {"a": 1}]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything within."""
    if not isinstance(value, (dict, list)):
        return [at]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [at, *[place for key, one in inner for place in places(one, (*at, key))]]


def put(body: dict[str, Any], place: tuple[Any, ...], junk: Any) -> None:
    target: Any = body
    for key in place[:-1]:
        try:
            target = target[key]
        except (KeyError, IndexError, TypeError):
            return  # another piece of junk is there
    if isinstance(target, dict) or (isinstance(target, list) and place[-1] in range(len(target))):
        target[place[-1]] = copy.deepcopy(junk)


@pytest.mark.parametrize("shape", Shape)
@given(data=st.data())
def test_a_field_of_another_kind(shape: Shape, data: st.DataObject) -> None:
    body = copy.deepcopy(RICH[shape])
    spots = st.sampled_from(places(body)[1:])
    for place in data.draw(st.lists(spots, min_size=1, max_size=2)):
        put(body, place, data.draw(st.sampled_from(JUNK)))
    norms, path = (
        data.draw(st.sampled_from(NORMS)),
        data.draw(st.sampled_from([PATH, MESSAGES_PATH])),
    )
    raw = encode(body)
    with contextlib.suppress(ProblemError):
        translation = translate(shape, raw, norms, ABOUT, path, completes=True)
        assert translation.body.startswith(b"{")
        assert translation.stream().wait()
    with contextlib.suppress(ProblemError):
        assert waiting(shape, raw, ABOUT).wait()
    if shape is Shape.MESSAGES:
        with contextlib.suppress(ProblemError):
            assert counting.estimate(counted(raw, norms)) > 0
    assert manner.needed(shape, norms, raw) in (True, False)


@pytest.mark.parametrize("path", [PATH, MESSAGES_PATH])
@pytest.mark.parametrize("shape", Shape)
def test_as_it_should_be_each_is_served(shape: Shape, path: str) -> None:
    for norms in NORMS:
        assert translate(shape, encode(RICH[shape]), norms, ABOUT, path).body
