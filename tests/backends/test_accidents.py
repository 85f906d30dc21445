"""Requests that end backends are known again; what is no fault of theirs is forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from daemon.backends.accidents import CRASHES, REMEMBERED, Accidents, poisoned
from daemon.core.messages import Ask, BackendExited, BackendUnhealthy, ExitClass, OperatorAsked
from daemon.core.problems import Code


def mark(text: str) -> Callable[[], str]:
    return lambda: text


def crash(kind: ExitClass = ExitClass.CRASH, generation: int = 1) -> BackendExited:
    return BackendExited("m", generation, kind, "it ended")


def test_the_second_crash_with_the_same_body_is_its_last() -> None:
    book = Accidents()
    assert not book.exited(crash(), [mark("bad")], 0.0).repeated
    assert book.suspect(mark("bad"), 1.0)
    assert not book.refused(mark("bad"), 1.0)
    assert book.exited(crash(generation=2), [mark("bad"), mark("other")], 2.0).repeated
    assert book.refused(mark("bad"), 3.0)
    assert not book.refused(mark("other"), 3.0)
    assert not book.suspect(mark("never seen"), 3.0)


def test_a_request_that_lost_its_connection_a_moment_before_the_exit_was_in_flight() -> None:
    book = Accidents()
    for generation in (1, 2):
        book.lost("m", generation, "bad", 10.0 * generation)
        book.lost("m", generation + 7, "elsewhere", 10.0 * generation)
        book.exited(crash(generation=generation), [], 10.0 * generation + 0.1)
    assert book.refused(mark("bad"), 21.0)
    assert not book.suspect(mark("elsewhere"), 21.0)


def test_one_that_was_lost_long_before_is_not_to_blame() -> None:
    book = Accidents()
    book.lost("m", 1, "reset", 0.0)
    book.exited(crash(), [], 1000.0)
    assert not book.suspect(mark("reset"), 1000.0)


@pytest.mark.parametrize("kind", set(ExitClass) - {ExitClass.CRASH, ExitClass.HANG})
def test_other_ends_blame_nobody(kind: ExitClass) -> None:
    """Out of memory has the ladder; what we ended ourselves was nobody's fault."""
    book = Accidents()
    for generation in (1, 2, 3):
        assert not book.exited(crash(kind, generation), [mark("x")], 0.0).repeated
    assert not book.suspect(mark("x"), 0.0)


def test_a_hang_counts_though_we_killed_it() -> None:
    book = Accidents()
    for generation in (1, 2):
        book.told(BackendUnhealthy("m", generation, "silent"))
        book.exited(crash(ExitClass.CLEAN, generation), [mark("x")], 0.0)
    assert book.refused(mark("x"), 0.0)


def test_it_is_forgotten_after_the_window_and_by_hand() -> None:
    book = Accidents()
    book.poison.window = 600.0
    for generation in (1, 2):
        book.exited(crash(generation=generation), [mark("x")], 100.0)
    assert book.refused(mark("x"), 699.0)
    assert not book.refused(mark("x"), 700.0)
    assert book.refused(mark("x"), 699.0)
    book.told(OperatorAsked(Ask.RESET, "another"))
    assert book.refused(mark("x"), 699.0)
    book.told(OperatorAsked(Ask.RESET, "m"))
    assert not book.suspect(mark("x"), 699.0)


def test_memory_is_bounded() -> None:
    book = Accidents()
    for number in range(10 * REMEMBERED):
        book.lost("m", 1, f"{number}", 0.0)
        book.exited(crash(generation=2), [mark(f"{number}")], 0.0)
    assert len(book.poison._crashes) == REMEMBERED
    assert len(book._lost["m", 1]) < 100


def test_without_accidents_no_body_is_looked_at() -> None:
    def looked() -> str:
        raise AssertionError("a digest costs time")

    book = Accidents()
    assert not book.suspect(looked, 0.0)
    assert not book.refused(looked, 0.0)


def test_a_request_without_a_body_is_never_to_blame() -> None:
    book = Accidents()
    for generation in range(1, 4):
        book.exited(crash(generation=generation), [mark("")], 0.0)
    assert not book.refused(mark(""), 0.0)


def test_what_is_said_of_it() -> None:
    problem = poisoned("m")
    assert (problem.code, problem.retry_after) == (Code.POISON, None)
    assert f"{CRASHES} times" in problem.text
    assert "ctl reset m" in problem.text
