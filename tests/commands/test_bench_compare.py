"""Two measurements beside each other: the arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_api.commands.bench_compare import before, change, changes, comparable, settings
from daemon.views import FigureView
from tests.control_api.fake import bench_view, measured_view


@st.composite
def figures(draw: st.DrawFn, unit: str | None = None) -> FigureView:
    unit = unit or draw(st.sampled_from(["s", "tokens/s", "items/s"]))
    amounts = st.floats(0.001, 1e6)
    low, median, high = sorted(draw(st.tuples(amounts, amounts, amounts)))
    count = draw(st.sampled_from([1, 3]))
    return FigureView(name="x", unit=unit, median=median, low=low, high=high, count=count)


@given(figures(unit="s"), figures(unit="s"))
def test_there_and_back(one: FigureView, other: FigureView) -> None:
    there, back = change(one, other), change(other, one)
    assert there is not None
    assert back is not None
    assert (1 + there.share) * (1 + back.share) == pytest.approx(1.0)
    assert there.clear == back.clear
    if there.better is None:
        assert back.better is None
    else:
        assert there.better is not back.better


@given(figures(), figures())
def test_less_time_and_more_a_second_are_better(one: FigureView, other: FigureView) -> None:
    other = replace(other, unit=one.unit)
    made = change(one, other)
    assert made is not None
    assert made.share == pytest.approx(other.median / one.median - 1)
    if made.better is not None:
        more = other.median > one.median
        assert made.better == (more if one.unit != "s" else not more)
        assert made.text.startswith("+" if more else "-")
    if made.clear:
        assert other.low > one.high or other.high < one.low
        assert made.text.endswith(("(faster)", "(slower)"))
        assert min(one.count, other.count) > 1, "one run says little"


@given(figures())
def test_the_same_is_the_same(one: FigureView) -> None:
    made = change(one, one)
    assert made is not None
    assert (made.share, made.better, made.text) == (0.0, None, "the same")


def test_nothing_to_compare_with() -> None:
    one = FigureView(name="load", unit="s", median=0.0, low=0.0, high=0.0, count=1)
    assert change(one, one) is None


def test_only_what_was_asked_in_the_same_way_is_compared() -> None:
    new = bench_view(id=9)
    longer = bench_view(id=8, measured=measured_view(prompt=4096))
    old = bench_view(id=7)
    assert not comparable(longer, new)
    assert before(new, [new, longer, old, bench_view(id=3)]) == old
    assert before(new, [new, longer]) is None
    assert before(new, [bench_view(id=6, model="other")]) is None


def test_what_else_is_different_is_told() -> None:
    new = bench_view(id=2, version="b9100", context=65536, quant="Q8_0")
    old = bench_view(measured=measured_view(timed_by="clock"))
    assert settings(old, new) == [
        "version b9000 -> b9100",
        "quant Q4_K_M -> Q8_0",
        "context 32768 -> 65536",
        "timed by the clock -> the engine",
    ]
    assert settings(new, new) == []
    assert [name for name, _ in changes(old, new)] == [
        "load", "first_token", "prefill", "generation"
    ]  # fmt: skip
    bare = bench_view(measured=measured_view(figures=[]))
    assert changes(bare, new) == []
