"""Measuring: what is asked, read and reckoned, with engines that count in other ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.proving.speed import (
    GENERATE,
    ITEMS,
    PROMPT,
    UNITS,
    WORDS,
    Sample,
    SpeedError,
    Wanted,
    figure,
    measure,
    read_chat,
    read_items,
    total,
    words_for,
)
from daemon.proving.values import Ask, Ended, Heard, Subject

SUBJECT = Subject("m", context=4096)
WANTED = Wanted(PROMPT, GENERATE, 3)


class Engine:
    """Counts ``each`` tokens a word, and ``around`` for its template; writes what it is asked for,
    or ``most``. ``timings``: it tells its own times, at 1000 and 50 tokens a second."""

    def __init__(
        self, each: float = 1.0, around: int = 20, *, timings: bool = True, strict: bool = False,
        most: int = 10**6,
    ) -> None:  # fmt: skip
        self.each, self.around, self.timings, self.most = each, around, timings, most
        self.strict = strict
        self.asks: list[Ask] = []

    def count(self, text: str) -> int:
        return self.around + round(self.each * sum(word in WORDS for word in text.split()))

    def answer(self, ask: Ask) -> Heard:
        self.asks.append(ask)
        body: Mapping[str, Any] = ask.body
        if ask.path != "/v1/chat/completions":
            texts = body.get("input") or body["documents"]
            usage = {"prompt_tokens": sum(map(self.count, texts))}
            return Heard(200, data=json.dumps({"usage": usage}).encode(), seconds=0.5)
        if self.strict and "ignore_eos" in body:
            return Heard(400, data=b'{"error": {"message": "ignore_eos?"}}')
        read = self.count(body["messages"][0]["content"])
        written = min(self.most, body["max_tokens"])
        first = {"choices": [{"delta": {"role": "assistant", "content": None}}]}
        piece = {"choices": [{"delta": {"content": "a"}}]}
        end: dict[str, Any] = {
            "choices": [], "usage": {"prompt_tokens": read, "completion_tokens": written}
        }  # fmt: skip
        if self.timings:
            end["timings"] = {
                "prompt_n": read, "prompt_ms": float(read), "cache_n": 0,
                "predicted_n": written, "predicted_ms": 20.0 * written,
            }  # fmt: skip
        chunks = [first, *[piece] * written, end]
        data = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
        data.append(b"data: [DONE]\n\n")
        times = [0.0, *(0.4 + 0.02 * n for n in range(written)), 9.0, 9.0]
        return Heard(
            200, data=b"".join(data), seconds=9.0, arrived=tuple(times),
            sizes=tuple(map(len, data)),
        )  # fmt: skip


def play(engine: Engine, wanted: Wanted = WANTED, subject: Subject = SUBJECT) -> list[Sample]:
    talk = measure(subject, wanted, Random(1))
    try:
        step = next(talk)
        while True:
            step = talk.send(engine.answer(step.ask))
    except StopIteration as end:
        found: list[Sample] = end.value
        return found


def test_prompts_have_as_many_tokens_as_were_asked_for() -> None:
    for each, around in ((1.0, 20), (1.0, 31), (2.0, 10), (6.0, 8)):
        samples = play(Engine(each, around))
        assert len(samples) == 3
        for sample in samples:
            assert abs(sample.tokens_in - PROMPT) <= each / 2
            assert (sample.tokens_out, sample.cached) == (GENERATE, 0)


def test_no_prompt_was_seen_before() -> None:
    engine = Engine()
    play(engine)
    texts = [ask.body["messages"][0]["content"] for ask in engine.asks]  # type: ignore[index]
    assert len({text[:60] for text in texts}) == len(texts), "they differ from the first words on"
    assert all(ask.body["cache_prompt"] is False for ask in engine.asks)
    assert all(ask.body["ignore_eos"] is True for ask in engine.asks)


def test_the_engines_own_times_count() -> None:
    for sample in play(Engine()):
        assert sample.by_engine
        assert sample.values == {
            "first_token": 0.4, "prefill": pytest.approx(1000.0), "generation": pytest.approx(50.0)
        }  # fmt: skip


def test_else_the_clock() -> None:
    for sample in play(Engine(timings=False)):
        assert not sample.by_engine
        assert sample.values["prefill"] == pytest.approx(PROMPT / 0.4)
        assert sample.values["generation"] == pytest.approx(50.0)


def test_an_engine_that_refuses_what_it_does_not_know() -> None:
    engine = Engine(strict=True, most=17)
    samples = play(engine)
    assert [sample.tokens_out for sample in samples] == [17] * 3
    assert sum("ignore_eos" in ask.body for ask in engine.asks) == 1


@pytest.mark.parametrize("kind", ["embedding", "rerank"])
def test_texts(kind: str) -> None:
    engine = Engine(around=4)
    samples = play(engine, Wanted(256, 0, 2, kind))
    assert [sample.tokens_in for sample in samples] == [256, 256]
    assert samples[0].values == {
        "latency": 0.5, "items": ITEMS / 0.5, "prefill": ITEMS * 256 / 0.5
    }  # fmt: skip
    made = total(Wanted(256, 0, 2, kind), samples)
    assert (made.generate, made.timed_by, made.cold) == (0, "clock", False)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [(Wanted(4000, 128, 1), "more than the context of 4096"), (Wanted(5, 5, 1), "too short")],
)
def test_what_cannot_be_asked(wanted: Wanted, said: str) -> None:
    with pytest.raises(SpeedError, match=said) as caught:
        play(Engine(), wanted)
    assert "--prompt" in caught.value.hint


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        (Heard(ended=Ended.UNREACHABLE, detail="nobody"), "cannot be reached: nobody"),
        (Heard(200, ended=Ended.BROKEN, detail="it was closed"), "not answered: it was closed"),
        (Heard(200, ended=Ended.SILENT), "its time was over"),
        (Heard(500, data=b'{"error": {"message": "Oops."}}'), "refused: Oops."),
        (Heard(200, data=b'data: {"error": {"message": "Oops."}}\n\n'), "failed: Oops."),
    ],
)
def test_what_goes_wrong(heard: Heard, said: str) -> None:
    with pytest.raises(SpeedError, match=said):
        read_chat(heard)


def test_an_engine_that_counts_nothing() -> None:
    with pytest.raises(SpeedError, match="how many tokens"):
        words_for(512, 0, 0)
    with pytest.raises(SpeedError, match="how many tokens"):
        read_items(Heard(200, data=b"{}"))


@given(st.binary(max_size=400), st.integers(0, 20))
def test_no_answer_is_a_traceback(data: bytes, pieces: int) -> None:
    heard = Heard(200, data=data, arrived=(0.1,) * pieces, sizes=(len(data),) * pieces)
    try:
        sample = read_chat(heard)
    except SpeedError:
        return
    assert sample.tokens_in >= 0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["prompt_n", "prompt_ms", "cached_tokens", "delta", "content"]), inner
    ),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["usage", "timings", "choices", "error"]), _JSON))
def test_nor_is_nonsense_in_json(value: dict[str, Any]) -> None:
    data = f"data: {json.dumps(value)}\n\n".encode()
    try:
        sample = read_chat(Heard(200, data=data, arrived=(0.5,), sizes=(len(data),)))
    except SpeedError:
        return
    assert all(0 < speed < float("inf") for speed in sample.values.values())


@given(
    st.sampled_from(sorted(UNITS)),
    st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=9),
)
def test_the_median_lies_in_the_spread(name: str, values: list[float]) -> None:
    made = figure(name, values)
    assert made.low <= made.median <= made.high
    assert made.count == len(values)


def test_all_runs_together() -> None:
    made = total(WANTED, play(Engine()), load=2.5, disturbed="gemma")
    assert [one.name for one in made.figures] == ["load", "first_token", "prefill", "generation"]
    assert (made.runs, made.tokens_in, made.tokens_out) == (3, PROMPT, GENERATE)
    assert (made.cold, made.timed_by, made.disturbed) == (True, "engine", "gemma")
    assert made.figures[0].count == 1
