"""The steps of plain talk: a stream, two conversations that must not mix, one that is stopped."""

from __future__ import annotations

from typing import Final

from daemon.proving.chat import CHAT
from daemon.proving.judging import (
    broken,
    but,
    malformed,
    marked,
    of_template,
    trouble,
    works,
)
from daemon.proving.turns import Model, Turn, User, Wanted
from daemon.proving.values import Ask, Ended, Finding, Heard, Outcome, Subject, Talk, Told

STREAM: Final = "stream"
LEAK: Final = "leak"
STOP: Final = "stop"

_COUNT: Final = "Count from one to twenty in words, separated by spaces."
_HALF: Final = 0.5  # of the time: pieces that come later than this all at once are no stream
_LONG: Final = 1.0  # seconds below which it cannot be seen whether an answer was streamed
SOON: Final = 3.0
"""Seconds within which a slot is free again, above what a small request takes anyway."""
MOST_SLOTS: Final = 16  # asked at the same time
_ENDLESS: Final = 4096  # tokens of the answer that is stopped


def ask(subject: Subject, *turns: Turn, limit: int) -> Ask:
    """A chat."""
    body = CHAT.write(subject, Wanted(turns, subject.limit(limit)))
    return Ask(CHAT.path, body, subject.seconds)


# ---------------------------------------------------------------- a stream


def stream(subject: Subject) -> Talk:
    """One streamed answer."""
    (heard,) = yield (ask(subject, User(_COUNT), limit=256),)
    return judge_stream(subject, heard)


def judge_stream(subject: Subject, heard: Heard) -> Finding:
    """Whether it is a stream as clients want it."""
    if (found := trouble(STREAM, subject, heard)) is not None:
        return found
    told = CHAT.read(heard.data)
    if (found := malformed(STREAM, subject, heard, told)) is not None:
        return found
    if not told.text and not told.thoughts:
        return broken(STREAM, "it answers nothing", of_template(subject))
    if (mark := marked(told)) != "":
        text = f"{mark!r}, which is no part of an answer, arrives as text"
        return but(STREAM, text, of_template(subject))
    if told.reason == "other":
        return but(STREAM, f"it ended with the unknown reason {told.stop!r}")
    if told.tokens_out is None:
        return but(STREAM, "no usage came: clients cannot count its tokens")
    if _at_once(heard, told):
        return but(STREAM, "all of it came at once, at the end: nothing is seen while it writes")
    first = f", the first byte after {heard.first:.1f} s" if heard.first is not None else ""
    thoughts = " (thoughts only: they took all of it)" if not told.text else ""
    return works(STREAM, f"{told.pieces} pieces{first}{thoughts}")


def _at_once(heard: Heard, told: Told) -> bool:
    """Was a long answer kept until its end? Small ones come in one read anyway."""
    if heard.seconds < _LONG or (told.tokens_out or 0) < 8 or not heard.arrived:
        return False
    return told.pieces == 1 or heard.arrived[0] == heard.arrived[-1] > _HALF * heard.seconds


# ---------------------------------------------------------------- two conversations


def words(tag: str) -> tuple[str, str]:
    """Two words that nobody says by chance, one for each conversation."""
    return f"zor{tag}", f"mub{tag[::-1]}"


def leak(subject: Subject) -> Talk:
    """Two conversations at the same time, twice, the second time the other way round."""
    secrets = words(subject.tag)
    told: list[list[Told]] = [[], []]
    turns: list[list[Turn]] = [
        [User(f"The secret word of this conversation is {word}. Say the secret word.")]
        for word in secrets
    ]
    for order in ((0, 1), (1, 0)):
        heards = yield tuple(ask(subject, *turns[i], limit=64) for i in order)
        for i, heard in zip(order, heards, strict=True):
            if (found := trouble(LEAK, subject, heard)) is not None:
                return found
            answer = CHAT.read(heard.data)
            if (found := malformed(LEAK, subject, heard, answer)) is not None:
                return found
            told[i].append(answer)
            again = User("What is the secret word of this conversation?")
            turns[i] += [Model(answer.text or "Yes."), again]
    return judge_leak(secrets, told)


def judge_leak(secrets: tuple[str, str], told: list[list[Told]]) -> Finding:
    """``told``: the answers of the one and of the other conversation."""
    count = sum(map(len, told))
    for other, answers in ((1, told[0]), (0, told[1])):
        for answer in answers:
            if secrets[other].casefold() in answer.said.casefold():
                text = f"the word {secrets[other]!r} of one conversation was said in another"
                hint = "do not use it for two people; one slot (`slots = 1`) may help"
                return broken(LEAK, text, hint)
    kept = all(
        any(secrets[i].casefold() in answer.said.casefold() for answer in told[i]) for i in (0, 1)
    )
    more = "" if kept else "; the model did not repeat its own words, which proves the less"
    return works(LEAK, f"{count} answers, none with the other's word{more}")


# ---------------------------------------------------------------- stop


def stop(subject: Subject) -> Talk:
    """A long stream is left; then as many small requests as there are slots."""
    small = ask(subject, User("Say yes."), limit=1)
    (before,) = yield (small,)
    if (found := trouble(STOP, subject, before)) is not None:
        return found
    long = CHAT.write(subject, Wanted([User(_COUNT)], _length(subject)))
    endless = {**long, "ignore_eos": True}
    (left,) = yield (Ask(CHAT.path, endless, subject.seconds, stop_after=4),)
    if left.status == 400:  # some refuse a field that they do not know
        (left,) = yield (Ask(CHAT.path, long, subject.seconds, stop_after=4),)
    if left.ended is not Ended.STOPPED:
        if (found := trouble(STOP, subject, left)) is not None:
            return found
        return Finding(STOP, Outcome.SKIPPED, "its answer was over before it could be stopped")
    asked = min(max(1, subject.slots), MOST_SLOTS)
    after = yield (small,) * asked
    return judge_stop(subject, before, after)


def _length(subject: Subject) -> int:
    return _ENDLESS if subject.context is None else max(16, min(_ENDLESS, subject.context // 2))


def judge_stop(subject: Subject, before: Heard, after: tuple[Heard, ...]) -> Finding:
    """Are all slots free again? ``before``: the small request when nothing else was asked."""
    for heard in after:
        if (found := trouble(STOP, subject, heard)) is not None:
            return found
    took = max(heard.seconds for heard in after)
    allowed = SOON + (2 + 2 * len(after)) * before.seconds
    if took > allowed:
        text = (
            f"the next request waited {took:.1f} s: the engine goes on writing for a client that "
            "has left (or somebody else was using it)"
        )
        return broken(STOP, text, "a newer version of the engine: `ctl engine ls`")
    return works(STOP, f"its place was free again after {took:.1f} s")
