"""The step that fills the context: what fits is answered, what does not is refused plainly."""

from __future__ import annotations

from typing import Final

from daemon.proving.chat import CHAT
from daemon.proving.events import refusal
from daemon.proving.judging import OVERFLOW, broken, but, malformed, trouble, works
from daemon.proving.turns import User, Wanted
from daemon.proving.values import Ask, Ended, Finding, Heard, Outcome, Subject, Talk, Told

CONTEXT: Final = "context"

UNIT: Final = "salt rope corn wood "  # the prompt is made of this: so many tokens each time
_FEW: Final = 1  # units that are measured …
_MANY: Final = 5  # … and these: a small context must hold them
_ANSWER: Final = 8  # tokens
_BYTES_PER_TOKEN: Final = 4.0  # where nobody counts: English in a large vocabulary
_UNCOUNTED: Final = 0.6  # of the context is aimed at then
_NEAR: Final = 0.85  # of the context must have been read


def context(subject: Subject) -> Talk:
    """Beyond the context first: what is refused at once costs nothing."""
    size = subject.context
    if size is None:
        return Finding(CONTEXT, Outcome.SKIPPED, "its context is not known")
    counts: list[int | None] = []
    for units in (_FEW, _MANY):
        (heard,) = yield (_ask(subject, units, subject.seconds),)
        if (found := trouble(CONTEXT, subject, heard)) is not None:
            return found
        counts.append(CHAT.read(heard.data).tokens_in)
    per_unit, frame = measure(counts[0], counts[1])
    beyond = int((size * 1.1 + 64) / per_unit) + 1
    (heard,) = yield (_ask(subject, beyond, subject.long_seconds),)
    over = judge_beyond(subject, heard, CHAT.read(heard.data))
    if over.outcome in (Outcome.BROKEN, Outcome.UNKNOWN):
        return over
    share = 1.0 if None not in counts else _UNCOUNTED
    room = size * share - frame - _ANSWER - max(8, size // 50)
    (heard,) = yield (_ask(subject, max(1, int(room / per_unit)), subject.long_seconds),)
    near = judge_near(subject, heard, CHAT.read(heard.data), counted=share == 1.0)
    return near if near.outcome is not Outcome.WORKS or over.outcome is Outcome.WORKS else over


def _ask(subject: Subject, units: int, seconds: float) -> Ask:
    text = UNIT * units + "\nSay yes."
    return Ask(CHAT.path, CHAT.write(subject, Wanted([User(text)], _ANSWER)), seconds)


def measure(few: int | None, many: int | None) -> tuple[float, float]:
    """Tokens of a unit, and of all around them, from the counts of both small prompts."""
    if few is None or many is None or many <= few:
        return len(UNIT) / _BYTES_PER_TOKEN, 64.0
    per_unit = (many - few) / (_MANY - _FEW)
    return per_unit, few - _FEW * per_unit


def judge_beyond(subject: Subject, heard: Heard, told: Told) -> Finding:
    """A prompt that cannot fit."""
    size, hint = subject.context or 0, f"a smaller `ctx` for {subject.model}"
    code, message = refusal(heard) if heard.status not in (0, 200) else ("", told.error)
    if OVERFLOW.search(f"{code} {message}"):
        return works(CONTEXT, "a prompt beyond it is refused so that clients know why")
    if heard.status in (400, 413, 422) or (heard.status == 200 and told.error):
        text = f"a prompt beyond it is refused in words that no client knows: {message}"
        return broken(CONTEXT, text, "clients cannot shorten their conversation by themselves")
    if (found := trouble(CONTEXT, subject, heard)) is not None:
        if found.outcome is Outcome.UNKNOWN and heard.ended is not Ended.LATE:
            return found
        if heard.ended is Ended.LATE:
            text = f"a prompt beyond the {size} tokens is taken, and not answered in time"
            return but(CONTEXT, text, hint)
        return broken(CONTEXT, f"a prompt beyond it: {found.text}", found.hint)
    if told.tokens_in is None:
        text = "a prompt beyond it is answered; nobody says whether it was cut"
        return but(CONTEXT, text, hint)
    if told.tokens_in > size:
        text = f"it takes more than the {size} tokens that it states: memory grows beyond its price"
        return but(CONTEXT, text, hint)
    text = f"a prompt beyond it is cut in silence: {told.tokens_in} tokens of it were read"
    return broken(CONTEXT, text, "its conversations lose their beginning unseen")


def judge_near(subject: Subject, heard: Heard, told: Told, *, counted: bool) -> Finding:
    """A prompt that just fits. ``counted``: the engine counts tokens, so it is known to."""
    size = subject.context or 0
    code, message = refusal(heard) if heard.status not in (0, 200) else ("", told.error)
    if OVERFLOW.search(f"{code} {message}"):
        if not counted:
            return but(CONTEXT, f"nobody counts its tokens, so {size} could not be filled")
        text = f"it states {size} tokens and refuses a prompt that needs less: {message}"
        return broken(CONTEXT, text, f"a smaller `ctx` for {subject.model}")
    for found in (trouble(CONTEXT, subject, heard), malformed(CONTEXT, subject, heard, told)):
        if found is not None:
            return found
    if told.tokens_in is None:
        text = f"a prompt of roughly {_UNCOUNTED:.0%} of {size} tokens is answered; nobody counts"
        return but(CONTEXT, text)
    if told.tokens_in < _NEAR * size:
        text = f"a prompt that fills it was cut in silence: {told.tokens_in} of {size} tokens read"
        return broken(CONTEXT, text, "its conversations lose their beginning unseen")
    text = f"{told.tokens_in} of {size} tokens answered in {heard.seconds:.1f} s, more is refused"
    return works(CONTEXT, text)
