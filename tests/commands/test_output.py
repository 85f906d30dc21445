from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_api.commands.output import Out, clean, duration, pools, size, width
from tests.commands.conftest import Terminal


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, ""), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (18_468_559_258, "17.2 GiB")],
)
def test_size(count: int | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (11.42, "11.4 s"),
        (59.4, "59 s"),
        (250, "4m 10s"),
        (11_100, "3h 5m"),
        (187_200, "2d 4h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_pools() -> None:
    assert pools({"gpu0": 2**30}) == "1.0 GiB"
    assert pools({"gpu0": 2**30, "ram": 2**20}) == "1.0 GiB gpu0 + 1.0 MiB ram"
    assert pools({}) == ""


def test_hostile_text_cannot_reach_the_terminal() -> None:
    assert clean("a\x1b[2Jb\x07\u202ec\u2028d\x9be") == "a\\x1b[2Jb\\x07\\u202ec\\u2028d\\x9be"
    assert clean("\x1b[8mhidden") == "\\x1b[8mhidden"
    assert clean("\x1b[31mred\x1b[0m") == "\x1b[31mred\x1b[0m"
    assert clean("\x1b[31mred", colours=False) == "\\x1b[31mred"
    assert clean("naïve 模型 ✓") == "naïve 模型 ✓"


@given(st.text())
def test_clean_text_has_no_control_characters(text: str) -> None:
    shown = clean(text)
    assert not any(ord(char) < 32 and char not in "\n\t\x1b" for char in shown)
    assert clean(shown) == shown


def test_columns_are_aligned_whatever_is_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    out = Out(out=stream)
    out.table(("A", "B"), [(out.state("ready"), "x"), ("模型", "y"), ("longest", "z")])
    lines = stream.getvalue().splitlines()
    assert "\x1b[32mready\x1b[0m" in lines[1]
    assert {width(line) for line in lines} == {len("longest") + 2 + 1}


@pytest.mark.parametrize("variable", ["NO_COLOR", "TERM"])
def test_no_colour_where_it_is_not_wanted(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, "dumb")
    assert Out(out=Terminal()).paint("x", "red") == "x"
    assert Out(out=io.StringIO()).paint("x", "red") == "x"
