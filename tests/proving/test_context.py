"""The context: filled, exceeded, cut in silence."""

from __future__ import annotations

import pytest

from daemon.proving.context import UNIT, context, judge_beyond, measure
from daemon.proving.values import Ended, Heard, Outcome, Subject, Told
from tests.proving.answers import CUT, GONE, SUBJECT, chat, delta, heard, play, refused, sse

OVER = refused(400, "request (2000 tokens) exceeds the available context size (1000 tokens)")
FEW, MANY = chat(tokens_in=14), chat(tokens_in=30)  # 4 tokens a unit, 10 around them
NEAR = chat(tokens_in=970, finish="length")
UNCOUNTED = heard(sse(delta("stop", content="a"), "[DONE]"))


def units(body: object) -> int:
    return str(body).count(UNIT)


def test_what_fits_is_answered_and_more_is_refused() -> None:
    found, sent = play(context(SUBJECT), FEW, MANY, OVER, NEAR)
    assert (found.step, found.outcome) == ("context", "works"), found
    assert found.text.startswith("970 of 1000 tokens answered")
    few, many, beyond, near = (units(one.body) for one in sent)
    assert (few, many) == (1, 5)
    assert beyond * 4 > 1000
    assert 900 < near * 4 + 10 + 8 < 1000
    assert (sent[1].seconds, sent[3].seconds) == (300.0, 1800.0)


@pytest.mark.parametrize(
    "message",
    [
        "prompt is too long: 250000 tokens > 200000 maximum",
        "This model's maximum context length is 4096 tokens",
        "request (6019 tokens) exceeds the available context size (2048 tokens), try increasing it",
    ],
)
def test_words_that_clients_know(message: str) -> None:
    assert judge_beyond(SUBJECT, refused(400, message), Told()).outcome is Outcome.WORKS
    in_stream = heard(sse({"error": {"message": message}}))
    found, _ = play(context(SUBJECT), FEW, MANY, in_stream, NEAR)
    assert found.outcome is Outcome.WORKS


def test_a_code_that_clients_know() -> None:
    coded = refused(400, "Too much.", "context_length_exceeded")
    assert judge_beyond(SUBJECT, coded, Told()).outcome is Outcome.WORKS


@pytest.mark.parametrize(
    ("beyond", "outcome", "said"),
    [
        (refused(400, "Bad request."), "broken", "in words that no client knows: Bad request."),
        (chat(tokens_in=1000), "broken", "cut in silence: 1000 tokens of it were read"),
        (refused(500, "Compute error."), "broken", "refused with 500"),
        (CUT, "broken", "a prompt beyond it: the answer broke off"),
        (GONE, "unknown", "nobody listens"),
    ],
)
def test_beyond_it(beyond: Heard, outcome: str, said: str) -> None:
    found, _ = play(context(SUBJECT), FEW, MANY, beyond)
    assert found.outcome == outcome, found
    assert said in found.text


@pytest.mark.parametrize(
    ("beyond", "said"),
    [
        (chat(tokens_in=1200), "takes more than the 1000 tokens"),
        (UNCOUNTED, "nobody says whether it was cut"),
        (Heard(200, ended=Ended.LATE, seconds=1800.0), "not answered in time"),
    ],
)
def test_engines_that_do_not_keep_to_it(beyond: Heard, said: str) -> None:
    found, _ = play(context(SUBJECT), FEW, MANY, beyond, NEAR)
    assert (found.outcome, found.fault) == ("but", "plumbing"), found
    assert said in found.text


@pytest.mark.parametrize(
    ("near", "outcome", "said"),
    [
        (OVER, "broken", "states 1000 tokens and refuses"),
        (chat(tokens_in=400), "broken", "cut in silence: 400 of 1000"),
        (CUT, "broken", "broke off"),
        (heard(b""), "broken", "no finish_reason"),
        (UNCOUNTED, "but", "nobody counts"),
    ],
)
def test_just_below_it(near: Heard, outcome: str, said: str) -> None:
    found, _ = play(context(SUBJECT), FEW, MANY, OVER, near)
    assert found.outcome == outcome, found
    assert said in found.text


def test_where_nobody_counts() -> None:
    found, sent = play(context(SUBJECT), UNCOUNTED, UNCOUNTED, OVER, UNCOUNTED)
    assert found.outcome is Outcome.BUT
    assert 0 < units(sent[3].body) * 5 < 600
    found, _ = play(context(SUBJECT), UNCOUNTED, UNCOUNTED, OVER, OVER)
    assert "could not be filled" in found.text
    assert measure(30, 14) == measure(None, 30) == (5.0, 64.0)


def test_what_cannot_be_known() -> None:
    found, sent = play(context(Subject("m")))
    assert (found.outcome, sent) == ("skipped", [])
    found, _ = play(context(SUBJECT), CUT)
    assert found.outcome is Outcome.BROKEN
