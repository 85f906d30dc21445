"""How fast a model is: what is asked, and what the answers come to. Pure.

As with the steps of a test, a run is a generator: it gives requests and is sent what was heard of
each. Prompts are words in an order by chance, so that no part of one but the template's own words
was ever read before, and engines are told to keep nothing of it. Engines that ignore the end of an
answer write exactly as many tokens as they are asked for; others may end before.

Where an engine tells its own times (llama.cpp's ``timings`` in the last chunk: ``prompt_n``,
``prompt_ms``, ``predicted_n``, ``predicted_ms``, ``cache_n``) these count; else the clock of who
asks.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any, Final

from daemon.proving.events import loads, number, refusal
from daemon.proving.values import Ask, Ended, Heard, Subject
from daemon.views import FigureView, MeasuredView

PROMPT: Final = 512
ITEM: Final = 256  # tokens of one text to embed or to rank
GENERATE: Final = 128
RUNS: Final = 3
ITEMS: Final = 16  # texts of one request
FEW, SOME = 8, 40  # words of the first two prompts, from which the tokens of a word are known
HEAD: Final = "Words:"  # so that each word has a blank before it
QUERY: Final = "Which of these texts is about the sea?"
GO_ON: Final = "\nGo on with such words, as many as you can, and never stop:"

# One token each with the vocabularies of the models in use, a blank before it; of one length, so
# that they count alike with those that know letters only.
_WORDS: Final = (
    "time year work part case week home room area fact land book side kind head hour game line "
    "name team idea kids body back face door road city food life hand land form word view mind "
    "free step love care deal rate plan type wall test sign size site play film song king ball "
    "fire fish rain tree wind gold farm ship star moon deep cold warm dark soft long fast high "
    "blue open good real full hard late next same able main true half west east left need want "
    "make take come give find tell feel keep turn move live hold sell send read walk wait stay"
)
WORDS: Final = tuple(dict.fromkeys(_WORDS.split()))


class SpeedError(Exception):
    """It cannot be measured. ``hint``: the next step."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is measured: ``prompt`` tokens of a text, ``generate`` tokens of an answer, ``runs``
    times. ``kind``: of the model."""

    prompt: int
    generate: int
    runs: int
    kind: str = "chat"

    @property
    def writes(self) -> bool:
        """Whether answers are written, token by token."""
        return self.kind not in ("embedding", "rerank")


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. ``values`` by the names of figures (seconds, tokens or items a second)."""

    tokens_in: int
    tokens_out: int
    cached: int
    by_engine: bool
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Next:
    """One request, and in words what it is for."""

    ask: Ask
    text: str
    run: int = 0  # from 1; 0: before the first


Speed = Generator[Next, Heard, list[Sample]]

UNITS: Final = {
    "load": "s",
    "first_token": "s",
    "latency": "s",
    "prefill": "tokens/s",
    "generation": "tokens/s",
    "items": "items/s",
}


def measure(subject: Subject, wanted: Wanted, random: Random) -> Speed:
    """All runs of a model. Raises SpeedError."""
    if subject.context is not None and wanted.prompt + wanted.generate > subject.context:
        text = (
            f"{wanted.prompt} tokens to read and {wanted.generate} to write are more than the "
            f"context of {subject.context}."
        )
        raise SpeedError(text, "Ask for fewer: --prompt, --generate.")
    talk = _Talk(subject, wanted, random)
    return (yield from (_writing(talk) if wanted.writes else _items(talk)))


@dataclass(slots=True)
class _Talk:
    """What the requests of one measurement share."""

    subject: Subject
    wanted: Wanted
    random: Random
    extras: bool = True  # fields that not every engine knows

    def text(self, words: int) -> str:
        return " ".join([HEAD, *self.random.choices(WORDS, k=max(1, words))])

    def chat(self, words: int, tokens: int) -> Ask:
        body: dict[str, object] = {
            "model": self.subject.model,
            "messages": [{"role": "user", "content": self.text(words) + GO_ON}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.extras:
            body |= {"ignore_eos": True, "cache_prompt": False}
        return Ask("/v1/chat/completions", body, self.subject.long_seconds)

    def items(self, words: int, count: int) -> Ask:
        texts = [self.text(words) for _ in range(count)]
        if self.wanted.kind == "rerank":
            body: dict[str, object] = {"query": QUERY, "documents": texts}
            path = "/v1/rerank"
        else:
            body, path = {"input": texts}, "/v1/embeddings"
        return Ask(path, {"model": self.subject.model, **body}, self.subject.long_seconds)


# ------------------------------------------------------------ models that write


def _writing(talk: _Talk) -> Speed:
    heard = yield Next(talk.chat(FEW, 1), "warming up")
    if heard.status == 400:  # some refuse a field that they do not know
        talk.extras = False
        heard = yield Next(talk.chat(FEW, 1), "warming up")
    few = read_chat(heard)
    some = read_chat((yield Next(talk.chat(SOME, 1), "warming up")))
    words = words_for(talk.wanted.prompt, few.tokens_in, some.tokens_in)
    got = read_chat((yield Next(talk.chat(words, 1), "warming up"))).tokens_in
    words = corrected(words, talk.wanted.prompt, few.tokens_in, some.tokens_in, got)
    samples = []
    for run in range(1, talk.wanted.runs + 1):
        text = f"{run} of {talk.wanted.runs}"
        samples.append(read_chat((yield Next(talk.chat(words, talk.wanted.generate), text, run))))
    return samples


def words_for(wanted: int, few: int, some: int) -> int:
    """Words of a prompt of ``wanted`` tokens, where ``FEW`` and ``SOME`` words made so many tokens.
    Raises SpeedError where the template alone has more."""
    each = (some - few) / (SOME - FEW)
    if each <= 0:
        raise SpeedError("The engine does not tell how many tokens it has read.")
    words = round(FEW + (wanted - few) / each)
    if words < 1:
        least = math.ceil(few - (FEW - 1) * each)
        text = f"A prompt of {wanted} tokens is too short: what is around it has some {least - 1}."
        raise SpeedError(text, f"Ask for more: --prompt {max(64, 2 * least)}.")
    return words


def corrected(words: int, wanted: int, few: int, some: int, got: int) -> int:
    """The words again, once it is known that they made ``got`` tokens."""
    each = (some - few) / (SOME - FEW)
    return max(1, words + round((wanted - got) / each))


def read_chat(heard: Heard) -> Sample:
    """One streamed answer, taken apart. Raises SpeedError for what is none."""
    _good(heard)
    usage: Mapping[str, Any] = {}
    timings: Mapping[str, Any] = {}
    times: list[float] = []
    for at, value in _chunks(heard):
        if isinstance(found := value.get("usage"), Mapping):
            usage = found
        if isinstance(found := value.get("timings"), Mapping):
            timings = found
        if "error" in value and not value.get("choices"):
            raise SpeedError(f"The engine failed: {refusal(Heard(data=_bytes(value)))[1]}")
        if _says(value):
            times.append(at)
    read, cached = number(timings.get("prompt_n")), number(timings.get("cache_n"))
    details = usage.get("prompt_tokens_details")
    if cached is None and isinstance(details, Mapping):
        cached = number(details.get("cached_tokens"))
    tokens_in = number(usage.get("prompt_tokens"))
    if tokens_in is None:
        tokens_in = (read or 0) + (cached or 0)
    tokens_out = number(usage.get("completion_tokens")) or number(timings.get("predicted_n")) or 0
    values, by_engine = _speeds(timings, times, tokens_in - (cached or 0), tokens_out)
    return Sample(tokens_in, tokens_out, cached or 0, by_engine, values)


def _speeds(
    timings: Mapping[str, Any], times: Sequence[float], read: int, written: int
) -> tuple[dict[str, float], bool]:
    """Figures of one answer, and whether the engine told the times."""
    values: dict[str, float] = {}
    if times:
        values["first_token"] = times[0]
    prefill = _rate(timings.get("prompt_n"), timings.get("prompt_ms"))
    writing = _rate(timings.get("predicted_n"), timings.get("predicted_ms"))
    by_engine = prefill is not None and writing is not None
    if not by_engine and times:
        prefill = read / times[0] if times[0] > 0 else None
        took = times[-1] - times[0]
        writing = (written - 1) / took if took > 0 and written > 1 else None
    if prefill is not None:
        values["prefill"] = prefill
    if writing is not None:
        values["generation"] = writing
    return values, by_engine


def _rate(count: object, milliseconds: object) -> float | None:
    """A second, of what an engine tells; None for nonsense."""
    if isinstance(count, bool) or not isinstance(count, int) or count <= 0:
        return None
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return None
    if not 0 < milliseconds < math.inf:
        return None
    return 1000.0 * count / milliseconds


def _chunks(heard: Heard) -> list[tuple[float, dict[str, Any]]]:
    """The JSON objects of a stream, each with the second of the read that brought its end."""
    ends = list(accumulate(heard.sizes))
    found: list[tuple[float, dict[str, Any]]] = []
    place = 0
    for line in heard.data.split(b"\n"):
        place += len(line) + 1
        if not line.startswith(b"data:"):
            continue
        value = loads(line[5:].strip())
        if isinstance(value, dict):
            index = min(bisect_left(ends, place), len(ends) - 1)
            found.append((heard.arrived[index] if ends else heard.seconds, value))
    return found


def _says(value: Mapping[str, Any]) -> bool:
    """Whether a chunk brings a piece of the answer."""
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    delta = choice.get("delta") if isinstance(choice, Mapping) else None
    if not isinstance(delta, Mapping):
        return False
    keys = ("content", "reasoning_content", "reasoning", "tool_calls")
    return any(delta.get(key) for key in keys)


def _bytes(value: object) -> bytes:
    import json

    return json.dumps(value).encode()


def _good(heard: Heard) -> None:
    """Raises SpeedError with what went wrong."""
    if heard.ended is Ended.UNREACHABLE:
        raise SpeedError(f"The port cannot be reached: {heard.detail}.", "`ctl status`")
    if heard.ended is not Ended.WHOLE:
        text = "its time was over" if heard.ended in (Ended.SILENT, Ended.LATE) else heard.detail
        raise SpeedError(f"A request was not answered: {text}.", "`ctl why` knows more.")
    if heard.status != 200:
        raise SpeedError(f"A request was refused: {refusal(heard)[1]}")


# ------------------------------------------------------------ models that embed or rank


def _items(talk: _Talk) -> Speed:
    few = read_items((yield Next(talk.items(FEW, 1), "warming up")))
    some = read_items((yield Next(talk.items(SOME, 1), "warming up")))
    words = words_for(talk.wanted.prompt, few, some)
    got = read_items((yield Next(talk.items(words, 1), "warming up")))
    words = corrected(words, talk.wanted.prompt, few, some, got)
    samples = []
    for run in range(1, talk.wanted.runs + 1):
        text = f"{run} of {talk.wanted.runs}"
        one = yield Next(talk.items(words, 1), text, run)
        tokens = read_items(one)
        many = yield Next(talk.items(words, ITEMS), text, run)
        all_tokens = read_items(many)
        values = {"latency": one.seconds}
        if many.seconds > 0:
            values["items"] = ITEMS / many.seconds
            values["prefill"] = all_tokens / many.seconds
        samples.append(Sample(tokens, 0, 0, False, values))
    return samples


def read_items(heard: Heard) -> int:
    """Tokens that one answer to texts says were read. Raises SpeedError."""
    _good(heard)
    body = loads(heard.data)
    usage = body.get("usage") if isinstance(body, dict) else None
    if isinstance(usage, Mapping):
        for key in ("prompt_tokens", "total_tokens"):
            if tokens := number(usage.get(key)):
                return tokens
    raise SpeedError("The engine does not tell how many tokens it has read.")


# ------------------------------------------------------------ what it comes to


def figure(name: str, values: Sequence[float]) -> FigureView:
    """Median and spread. ``values`` is not empty."""
    rounded = [round(value, 6) for value in values]
    return FigureView(
        name=name,
        unit=UNITS[name],
        median=round(statistics.median(rounded), 6),
        low=min(rounded),
        high=max(rounded),
        count=len(rounded),
    )


def total(
    wanted: Wanted, samples: Sequence[Sample], *, load: float | None = None, disturbed: str = ""
) -> MeasuredView:
    """All runs together. ``load``: seconds that the start took, where it was started for this;
    ``disturbed``: models that served others meanwhile."""
    names = [name for name in UNITS if any(name in sample.values for sample in samples)]
    figures = [
        figure(name, [sample.values[name] for sample in samples if name in sample.values])
        for name in names
    ]
    if load is not None:
        figures.insert(0, figure("load", [load]))
    by_engine = bool(samples) and all(sample.by_engine for sample in samples)
    return MeasuredView(
        prompt=wanted.prompt,
        generate=wanted.generate if wanted.writes else 0,
        runs=len(samples),
        tokens_in=round(statistics.median([sample.tokens_in for sample in samples])),
        tokens_out=round(statistics.median([sample.tokens_out for sample in samples])),
        cached=max(sample.cached for sample in samples),
        timed_by="engine" if by_engine else "clock",
        cold=load is not None,
        disturbed=disturbed[:400],
        figures=figures,
    )
