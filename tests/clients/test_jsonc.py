"""JSON that people write: only what is set changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_api.clients.jsonc import changed, loads

plain = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6)
values: st.SearchStrategy[Any] = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner)
)
objects = st.dictionaries(st.text(max_size=3), values, max_size=4)
paths = st.lists(st.text(max_size=3), min_size=1, max_size=3).map(tuple)


def expected(document: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(document))
    place = made
    for key in path[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ValueError
    place[path[-1]] = value
    return made


@given(objects, paths, values, st.sampled_from([None, 0, 2, "\t"]))
def test_it_says_the_same_as_setting_the_value(
    document: dict[str, Any], path: tuple[str, ...], value: Any, indent: int | str | None
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    try:
        wanted = expected(document, path, value)
    except ValueError:
        with pytest.raises(ValueError, match="no object"):
            changed(text, {path: value})
        return
    once = changed(text, {path: value})
    assert loads(once) == wanted
    assert json.loads(once) == wanted, "plain JSON stays plain JSON"
    assert changed(once, {path: value}) == once


@given(st.text(max_size=40))
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    said = ""
    try:
        loads(text)
    except ValueError as error:
        said = str(error)
    assert not said or said.startswith("line ")


WRITTEN = """\
// mine
{
  "$schema": "x", // why
  /* two
     lines */
  "env": {
    "A": "1" // the last
  },
  "list": [1, 2,],
}
"""


def test_comments_and_order_stay() -> None:
    made = changed(
        WRITTEN, {("env", "A"): "2", ("env", "B"): "3", ("model",): "m", ("p", "q"): {"r": 1}}
    )
    assert (
        made
        == """\
// mine
{
  "$schema": "x", // why
  /* two
     lines */
  "env": {
    "A": "2", // the last
    "B": "3"
  },
  "list": [1, 2,],
  "model": "m",
  "p": {
    "q": {
      "r": 1
    }
  }
}
"""
    )


@pytest.mark.parametrize(
    ("text", "made"),
    [
        (None, '{\n  "a": 1\n}\n'),
        ("", '{\n  "a": 1\n}\n'),
        ("\ufeff{}", '\ufeff{\n  "a": 1\n}'),
        ("{}", '{\n  "a": 1\n}'),
        ('{"b": 2}', '{"b": 2, "a": 1}'),
        ('{"b": 2,}', '{"b": 2, "a": 1}'),
        ("{\n  // none\n}\n", '{\n  "a": 1\n  // none\n}\n'),
        ('{"a": true}', '{"a": 1}'),  # true is no 1
    ],
)
def test_the_shape_of_what_is_added(text: str | None, made: str) -> None:
    assert changed(text, {("a",): 1}) == made
    assert loads(made) in ({"a": 1}, {"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "the whole is no object"),
        ('{"a": 1}', "a is no object"),
        ('{"a" 1}', "line 1: no colon"),
        ('{\n"a": {}\n"b": 1}', "line 3: no comma"),
        ("{} {}", "more than one value"),
        ('{"a": nul}', "no value"),
        ("{a: 1}", "no name in quotes"),
        ("[" * 300, "too many levels"),
        ('{"a": "x', "no value"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        changed(text, {("a", "b"): 1})
