"""``ctl load`` where room is tight: a menu for a person, the safe choice elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from control_api.client import Client, RefusedError, segment, view
from control_api.commands.asking import nobody
from control_api.commands.output import Out
from daemon.views import ChoiceView, FitView

TIGHT: Final = ("shrinks", "refused")
CANCEL: Final = "Cancel"


class CancelledError(RefusedError):
    """The user wants none of it."""

    def __init__(self) -> None:
        super().__init__("cancelled", "Nothing was loaded.")


@dataclass(frozen=True, slots=True)
class Decision:
    """How the load is asked for. ``command`` is to be run before, by the user's wish."""

    ctx: int | None
    fit: str | None
    command: Sequence[str] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The fields of the request's body."""
        found = {"ctx": self.ctx, "fit": self.fit}
        return {name: value for name, value in found.items() if value is not None}


def decide(
    client: Client, model: str, ctx: int | None, fit: str | None, out: Out, *, yes: bool = False
) -> Decision:
    """Ask the daemon whether it fits; where it is tight ask the user, if one is there.

    ``fit``: ``ask`` (or None, which asks too where somebody can answer), else what is done without
    a question. ``yes``: no question; the safe choice. Raises ``RefusedError`` when the user
    cancels.
    """
    if fit not in (None, "ask"):
        return Decision(ctx, fit)
    try:
        found = view(FitView, look(client, model, ctx))
    except RefusedError:
        return Decision(ctx, None)  # not pulled yet, unknown …: the load says it
    if found.verdict not in TIGHT:
        return Decision(ctx, None)
    if out.err.isatty() and not nobody(out) and not yes:
        return _ask(found, found.choices, out)
    out.note(found.text)
    if found.verdict == "shrinks" or fit == "ask" or yes:
        return _safe(found.choices, ctx, out)
    return Decision(ctx, None)  # what the user wrote is not changed: it is refused


def look(client: Client, model: str, ctx: int | None) -> Mapping[str, Any]:
    """The daemon's answer, as JSON."""
    found: Mapping[str, Any] = client.get(f"/models/{segment(model)}/fit", ctx=ctx or 0)
    return found


def _safe(choices: Sequence[ChoiceView], ctx: int | None, out: Out) -> Decision:
    """The smaller context, if there is one: it changes nothing for good and risks nothing."""
    for choice in choices:
        if choice.key == "shrink":
            out.note(f"It is loaded with a context of {choice.context}.")
            return Decision(choice.context, "shrink")
    return Decision(ctx, None)


def _ask(found: FitView, choices: Sequence[ChoiceView], out: Out) -> Decision:
    out.note(found.text)
    menu = [choice for choice in choices if choice.fit]
    lines = [choice.text for choice in menu] + [CANCEL]
    for number, line in enumerate(lines, 1):
        out.note(f"  {number}  {line}")
    for choice, number in zip(menu, range(1, len(menu) + 1), strict=True):
        if choice.command:
            out.note(f"  ({number} runs: {' '.join(choice.command)})")
    for choice in choices:
        if not choice.fit:
            out.note(f"  Or: {choice.text}.")
    safe = menu[0].key != "ignore"  # what may crash is never what Enter means
    number = _number(len(lines), 1 if safe else len(lines), out)
    if number == len(lines):
        raise CancelledError
    chosen = menu[number - 1]
    return Decision(chosen.context, chosen.fit, chosen.command)


def _number(most: int, default: int, out: Out) -> int:
    while True:
        print(f"Choose [{default}]: ", end="", file=out.err, flush=True)
        text = sys.stdin.readline()
        if not text:  # the end of the input: nobody is there any more
            raise CancelledError
        text = text.strip()
        if not text:
            return default
        if text.isascii() and text.isdecimal() and 1 <= int(text) <= most:
            return int(text)
        out.note(f"{text!r} is not a number from 1 to {most}.")
