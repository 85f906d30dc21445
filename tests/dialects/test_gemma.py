"""Gemma 4's notation of arguments."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.dialects.gemma import QUOTE, gemma_call


def written(value: Any) -> str:
    """As its chat template writes arguments."""
    if isinstance(value, str):
        return f"{QUOTE}{value}{QUOTE}"
    if isinstance(value, dict):
        return "{" + ",".join([f"{key}:{written(one)}" for key, one in value.items()]) + "}"
    if isinstance(value, list):
        return "[" + ",".join([written(one) for one in value]) + "]"
    return {True: "true", False: "false", None: "null"}.get(value, str(value))


_text = st.text(st.characters(exclude_characters="|", codec="utf-8"), max_size=8)
_value = st.recursive(
    st.none() | st.booleans() | st.integers(2, 999) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["a", "file_path", "x-y"]), _value))
def test_there_and_back(value: dict[str, Any]) -> None:
    text = written(value)
    assert gemma_call(text, 0, len(text)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{a: "x\\n", "b c":1.5 , <|"|>d<|"|>:[ ]}', {"a": "x\n", "b c": 1.5, "d": []}),
        ("{a:bare words,b:{}}", {"a": "bare words", "b": {}}),
        ("{a:1,}", {"a": 1}),
        ("{}", {}),
        ("{a}", None),
        ("{a:", None),
        ("{a:1 b:2}", {"a": "1 b:2"}),
        ("{a:[1}", None),
        ("{:1}", None),
        ('{a:<|"|>open}', None),
        ("{a:1} tail", None),
        ("[1]", None),
        ("{a:" * 50 + "1" + "}" * 50, None),
    ],
)
def test_what_models_write(text: str, value: Any) -> None:
    assert gemma_call(text, 0, len(text)) == value
