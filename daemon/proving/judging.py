"""What every step judges alike: answers that did not come, form, markers that leaked into text."""

from __future__ import annotations

import re
from typing import Final

from daemon.proving.events import refusal
from daemon.proving.turns import Dialect
from daemon.proving.values import Ended, Fault, Finding, Heard, Outcome, Subject, Told

NOT_ITS_FAULT: Final = frozenset(
    {
        "paused", "queue_timeout", "queue_full", "unloaded", "preempted", "shutting_down",
        "unauthorized", "forbidden", "not_pulled", "pull_failed", "pulling", "model_too_large",
        "all_pinned", "model_not_found", "engine_missing", "misdirected_host", "overloaded_error",
        "authentication_error", "permission_error",
    }
)  # fmt: skip
"""Codes (``daemon.core.problems.Code``, and Anthropic's types) of refusals that say nothing of the
model: it could not be asked."""

OVERFLOW: Final = re.compile(
    r"prompt is too long|exceeds? the (available|maximum|model'?s?) context|exceed_context_size"
    r"|context_length_exceeded|maximum context length|context (length|window|size) (of|exceeded)"
    r"|longer than the (model'?s )?(maximum )?context",
    re.IGNORECASE,
)
"""By which real clients know that a prompt was too long (Claude Code: the first two; Codex: the
code), and the words that others look for."""

MARKERS: Final = re.compile(
    r"</?think>|<\|?(im_start|im_end|channel|message|start|end|eot_id|endoftext|tool_call)\|?>"
    r"|<(start|end)_of_turn>|<\|channel>|^Thinking Process:",
)
"""Pieces of chat templates that are no part of an answer."""

TEMPLATE: Final = "another chat template may help: `ctl set {model} template=PATH`"


def trouble(step: str, subject: Subject, heard: Heard) -> Finding | None:
    """The finding where no good answer came at all; None where one did."""
    match heard.ended:
        case Ended.UNREACHABLE:
            return Finding(step, Outcome.UNKNOWN, f"it could not be asked: {heard.detail}")
        case Ended.LATE:
            text = f"it was still answering after {heard.seconds:.0f} s"
            return Finding(step, Outcome.UNKNOWN, text, hint="--timeout gives it more time")
        case Ended.SILENT:
            text = f"nothing came for {heard.seconds:.0f} s"
            return broken(step, text, f"`ctl logs {subject.model}` shows what it does")
        case Ended.BROKEN if heard.status in (0, 200):
            text = "the answer broke off" + (f": {heard.detail}" if heard.detail else "")
            return broken(step, text, f"`ctl why {subject.model}`")
    if heard.status == 200:
        return None
    code, message = refusal(heard)
    if code in NOT_ITS_FAULT:
        return Finding(step, Outcome.UNKNOWN, f"it could not be asked: {message}")
    hint = f"`ctl logs {subject.model}` may say more"
    if "jinja" in message.lower():
        hint = f"llama.cpp needs --jinja for tools: `ctl set {subject.model} args=…`"
    return broken(step, f"it was refused with {heard.status}: {message}", hint)


def unspoken(step: str, dialect: Dialect, subject: Subject, heard: Heard) -> Finding | None:
    """The finding where the engine does not speak the dialect, which is no fault of it."""
    code, message = refusal(heard) if heard.status not in (0, 200) else ("", "")
    # Anthropic's errors have no code; an engine that is asked itself says 404
    missing = dialect.name not in subject.routes and (
        heard.status == 404 or "does not serve" in message
    )
    if code == "unsupported_dialect" or missing:
        return Finding(step, Outcome.SKIPPED, f"its engine does not serve {dialect.name}")
    return None


def malformed(step: str, subject: Subject, heard: Heard, told: Told) -> Finding | None:
    """The finding where a stream's form is wrong; None where it is right."""
    if told.error:
        return broken(step, f"it broke off with an error: {told.error}", _why(subject))
    if not heard.kind.lower().startswith("text/event-stream"):
        found = heard.kind or "nothing"
        return broken(step, f"a stream was asked for, and {found} came", _engine(subject))
    if told.flaws:
        more = f" (and {len(told.flaws) - 1} more)" if len(told.flaws) > 1 else ""
        return broken(step, f"{told.flaws[0]}{more}", _engine(subject))
    return None


def marked(told: Told) -> str:
    """The marker of a template that arrived as text; "" if there is none."""
    found = MARKERS.search(told.text)
    if found is None and "�" in told.text:
        return "�"
    return found[0] if found is not None else ""


def broken(step: str, text: str, hint: str = "") -> Finding:
    """Something around the model does not work."""
    return Finding(step, Outcome.BROKEN, text, Fault.PLUMBING, hint)


def but(step: str, text: str, hint: str = "", fault: Fault = Fault.PLUMBING) -> Finding:
    """It works, with something to know."""
    return Finding(step, Outcome.BUT, text, fault, hint)


def weak(step: str, text: str, hint: str = "") -> Finding:
    """All around the model works; the model itself does not manage."""
    return but(step, f"the model is too weak: {text}", hint, Fault.MODEL)


def works(step: str, text: str) -> Finding:
    """As it should be."""
    return Finding(step, Outcome.WORKS, text)


def of_template(subject: Subject) -> str:
    """The next step where a template is to be suspected."""
    return TEMPLATE.format(model=subject.model)


def _why(subject: Subject) -> str:
    return f"`ctl logs {subject.model}` may say more"


def _engine(subject: Subject) -> str:
    return f"that is the engine's: another version of it, or another engine for {subject.model}"
