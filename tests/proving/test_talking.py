"""The stream, the leak, the stop: judged with good and broken answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.proving.chat import CHAT
from daemon.proving.talking import judge_stream, leak, stop, stream, words
from daemon.proving.values import Ended, Fault, Heard, Outcome, Subject
from tests.proving.answers import (
    CUT,
    GONE,
    PAUSED,
    SILENT,
    SUBJECT,
    chat,
    delta,
    heard,
    play,
    recorded,
    refused,
    sse,
    usage,
)


def test_a_good_stream() -> None:
    found, (asked,) = play(stream(SUBJECT), heard(recorded("chat_text"), first=0.2))
    assert (found.step, found.outcome, found.fault) == ("stream", "works", "")
    assert found.text == "10 pieces, the first byte after 0.2 s"
    assert (asked.path, asked.body["max_tokens"]) == ("/v1/chat/completions", 250)
    thinking = judge_stream(SUBJECT, chat("", "length", reasoning_content="Hm."))
    assert thinking.outcome is Outcome.WORKS
    assert "thoughts only" in thinking.text


@pytest.mark.parametrize(
    ("answer", "outcome", "said"),
    [
        (CUT, "broken", "broke off: the connection was closed"),
        (SILENT, "broken", "nothing came for 300 s"),
        (GONE, "unknown", "nobody listens"),
        (PAUSED, "unknown", "could not be asked: Paused."),
        (Heard(200, ended=Ended.LATE, seconds=300.0), "unknown", "still answering after 300 s"),
        (refused(500, "Compute error."), "broken", "refused with 500: Compute error."),
        (heard(b"{}", kind="application/json"), "broken", "application/json came"),
        (heard(sse(delta(content="a"), "[DONE]")), "broken", "no finish_reason came"),
        (heard(sse({"error": {"message": "Oops."}})), "broken", "an error: Oops."),
        (chat(""), "broken", "it answers nothing"),
        (chat("<think> hm </think> Yes"), "but", "'<think>', which is no part of an answer"),
        (chat("Yes<|im_end|>"), "but", "'<|im_end|>'"),
        (chat("Thinking Process: 1."), "but", "'Thinking Process:'"),
        (chat("a�b"), "but", "�"),
        (chat(finish="weird"), "but", "the unknown reason 'weird'"),
        (heard(sse(delta("stop", content="a"), "[DONE]")), "but", "no usage came"),
    ],
)
def test_broken_streams(answer: Heard, outcome: str, said: str) -> None:
    found = judge_stream(SUBJECT, answer)
    assert found.outcome == outcome, found
    assert said in found.text
    assert found.fault == (Fault.NONE if outcome == "unknown" else Fault.PLUMBING)
    if outcome == "broken":
        assert found.hint


def test_an_answer_that_is_kept_until_its_end() -> None:
    whole = chat()
    late = replace(whole, seconds=9.0, arrived=(8.9, 8.9))
    assert "at once" in judge_stream(SUBJECT, late).text
    spread = replace(whole, seconds=9.0, arrived=(1.0, 5.0, 9.0))
    assert judge_stream(SUBJECT, spread).outcome is Outcome.WORKS
    one = heard(sse(delta("stop", content="a b c"), usage(), "[DONE]"), seconds=9.0, arrived=(9.0,))
    assert "at once" in judge_stream(SUBJECT, one).text
    assert judge_stream(SUBJECT, replace(one, seconds=0.1)).outcome is Outcome.WORKS


# ---------------------------------------------------------------- leak

OWN, OTHER = words(SUBJECT.tag)


def test_two_conversations_that_stay_apart() -> None:
    found, sent = play(leak(SUBJECT), (chat(OWN), chat(OTHER)), (chat(OTHER), chat(OWN)))
    assert (found.outcome, found.text) == ("works", "4 answers, none with the other's word")
    first, second = sent[0].body["messages"], sent[1].body["messages"]
    assert OWN in str(first)
    assert OTHER not in str(first)
    assert OTHER in str(second)
    again = sent[2].body["messages"]
    assert [turn["role"] for turn in again] == ["user", "assistant", "user"]
    assert OTHER in str(again), "the second time the other way round"


def test_a_model_that_says_neither_proves_the_less() -> None:
    found, _ = play(leak(SUBJECT), (chat(), chat()), (chat(), chat()))
    assert found.outcome is Outcome.WORKS
    assert "proves the less" in found.text


@pytest.mark.parametrize("where", range(4))
def test_a_word_of_the_other_conversation(where: int) -> None:
    answers = [chat(OWN), chat(OTHER), chat(OTHER), chat(OWN)]
    wrong = OTHER if where in (0, 3) else OWN
    # in pieces, and in thoughts: that it was said counts, not how
    answers[where] = chat("well", reasoning_content=f"It is {wrong.upper()}")
    found, _ = play(leak(SUBJECT), tuple(answers[:2]), tuple(answers[2:]))
    assert (found.outcome, found.fault) == ("broken", "plumbing")
    assert repr(wrong) in found.text


def test_a_leak_that_could_not_be_tried() -> None:
    found, _ = play(leak(SUBJECT), (chat(), PAUSED))
    assert found.outcome is Outcome.UNKNOWN
    found, _ = play(leak(SUBJECT), (chat(), heard(b"data: 1\n\n")))
    assert found.outcome is Outcome.BROKEN


# ---------------------------------------------------------------- stop

QUICK = chat("a")
LEFT = heard(b"", ended=Ended.STOPPED)


def test_a_place_that_is_free_again() -> None:
    found, sent = play(stop(SUBJECT), QUICK, LEFT, (QUICK, QUICK))
    assert found.outcome is Outcome.WORKS
    assert sent[1].body["ignore_eos"] is True
    assert (sent[1].stop_after, sent[1].body["max_tokens"]) == (4, 500)
    assert len(sent) == 4, "as many as there are slots"


def test_an_engine_that_goes_on() -> None:
    slow = replace(QUICK, seconds=30.0)
    found, _ = play(stop(SUBJECT), QUICK, LEFT, (QUICK, slow))
    assert found.outcome is Outcome.BROKEN
    assert "waited 30.0 s" in found.text
    patient = replace(QUICK, seconds=10.0)  # it takes that long when nothing else runs
    found, _ = play(stop(SUBJECT), patient, LEFT, (slow, slow))
    assert found.outcome is Outcome.WORKS


def test_an_answer_that_was_over_and_engines_that_refuse_the_field() -> None:
    found, _ = play(stop(SUBJECT), QUICK, chat())
    assert found.outcome is Outcome.SKIPPED
    refusing = refused(400, "unknown field ignore_eos")
    found, sent = play(stop(Subject("m")), QUICK, refusing, LEFT, QUICK)
    assert found.outcome is Outcome.WORKS
    assert "ignore_eos" not in sent[2].body
    assert sent[2].body["max_tokens"] == 4096
    found, _ = play(stop(SUBJECT), QUICK, refusing, refusing)
    assert found.outcome is Outcome.BROKEN


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_stop_that_breaks(place: int) -> None:
    answers: list[Heard | tuple[Heard, ...]] = [QUICK, LEFT, (QUICK, CUT)]
    if place < 2:
        answers = [*answers[:place], CUT]
    found, _ = play(stop(SUBJECT), *answers)
    assert found.outcome is Outcome.BROKEN


def test_the_stream_is_asked_with_usage() -> None:
    _, (asked,) = play(stream(SUBJECT), QUICK)
    assert asked.body["stream_options"] == {"include_usage": True}
    assert CHAT.read(QUICK.data).tokens_out == 10
