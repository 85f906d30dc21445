"""Incidents as values: made of a scene and an event, changed by what comes after."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.telemetry.incidents import MAX_KEPT, MAX_LINES, Answer, Book, Scene, last_lines

FACTS = {"exit_class": "crash", "detail": "killed by SIGSEGV", "asked": False}


def died(book: Book, at: float, model: str = "m", generation: int = 1) -> int:
    return book.add(at, Scene(model, generation), FACTS).id


def test_an_incident_has_no_secret_and_no_control_characters() -> None:
    scene = Scene(
        "m", 3, engine="e", version="1\n2", status=-11, serving=True,
        lines=["key-of-this-start \x1b[31mred", "api_key=canary-canary"],
        advice="Bearer canary-canary", secrets=("key-of-this-start",),
    )  # fmt: skip
    facts = {"exit_class": "crash", "detail": "password=canary-canary and key-of-this-start"}
    one = Book().add(5.0, scene, facts)
    assert one.lines == ["*** \\x1b[31mred", "api_key=***"]
    assert (one.detail, one.advice) == ("password=*** and ***", "Bearer ***")
    assert (one.version, one.status, one.id, one.at) == ("1\\n2", -11, 1, 5.0)


def test_what_is_done_and_what_follows_is_written_into_it() -> None:
    book = Book()
    died(book, 100.0)
    book.answer("m", 1, Answer("backoff", 2.0, "smaller"))
    book.follow("m", "ready", 112.5)
    (one,) = book.of("m")
    assert (one.done, one.done_seconds, one.next_variant) == ("backoff", 2.0, "smaller")
    assert (one.followed, one.followed_seconds) == ("ready", 12.5)
    book.follow("m", "ready", 900.0)
    assert book.of("m") == [one], "a later start is not its end"


def test_the_same_variant_again_is_no_next_one() -> None:
    book = Book()
    book.add(1.0, Scene("m", 1, variant="full"), FACTS)
    one = book.answer("m", 1, Answer("half_open", 300.0, "full"))
    assert one is not None
    assert one.next_variant == ""
    assert book.answer("m", 1, Answer("gave_up")) is None, "the first word counts"
    assert book.answer("m", 2, Answer("gave_up")) is None
    assert book.answer("other", 1, Answer("gave_up")) is None


def test_the_next_death_is_what_followed() -> None:
    book = Book()
    died(book, 10.0)
    died(book, 11.0, "other")
    died(book, 13.0, generation=2)
    newest, first = book.of("m")
    assert (first.followed, first.followed_seconds, newest.followed) == ("died", 3.0, "")
    assert [one.model for one in book.of(None)] == ["m", "other", "m"]


def test_a_reset_is_overwritten_by_what_came_of_it() -> None:
    book = Book()
    died(book, 10.0)
    for what in ("reset", "reset", "ready"):
        book.follow("m", what, 20.0)
    assert book.of("m")[0].followed == "ready"
    assert book.follow("m", "reset", 30.0) is None


def test_the_kernels_count_finds_its_incident() -> None:
    book = Book()
    number = died(book, 1.0)
    died(book, 2.0)
    before = book.changed
    book.kills(number, 1)
    book.kills(99, 1)
    assert [one.kernel_kills for one in book.of("m")] == [None, 1]
    assert book.changed == before + 1


def test_the_oldest_are_forgotten() -> None:
    book = Book()
    for turn in range(MAX_KEPT + 3):
        died(book, float(turn), f"m{turn}")
    assert len(book.kept) == MAX_KEPT
    assert [book.kept[0].id, book.kept[-1].id] == [4, MAX_KEPT + 3]


@given(st.lists(st.text(max_size=200) | st.just("y" * 9000), max_size=60))
def test_the_last_lines_within_their_bytes(lines: list[str]) -> None:
    kept = last_lines(lines, lambda line: line)
    assert sum(len(line.encode()) + 1 for line in kept) <= MAX_LINES + 1
    assert all(char >= " " for line in kept for char in line)
    if lines and len(lines[-1]) < 100:
        assert kept
    if sum(len(line.encode()) for line in lines) < 1000 and all(x.isprintable() for x in lines):
        assert kept == lines
