"""``why``: what died, why, what was done about it, and what to do next."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any, Final

from control_api.client import Client, RefusedError, view
from control_api.commands.command import Command
from control_api.commands.output import Out, pools, size
from daemon.views import HeldView, IncidentView, StoryView

SHOWN: Final = 5  # stories, unless --all is given
LINES: Final = 8  # of what it said, unless --all is given
MOST: Final = 500  # as many as the daemon keeps


def why(args: Namespace, out: Out) -> int:
    try:
        data = Client().get("/incidents", model=args.model, limit=MOST)
    except RefusedError as error:
        if error.code != "model_not_found":
            raise
        return _of_request(args.model, out, error)
    if out.json:
        out.value(data)
        return 0
    stories = [view(StoryView, item) for item in data["stories"]]
    if not stories:
        of = f" of {args.model}" if args.model else ""
        out.line(f"Nothing{of} died unasked, as far as is remembered.")
        return 0
    shown = stories if args.all else stories[:SHOWN]
    for number, story in enumerate(shown):
        if number:
            out.line()
        _print(story, args.all, out)
    if len(shown) < len(stories):
        out.line()
        out.line(f"{len(stories) - len(shown)} more: `ctl why --all`")
    return 0


def _of_request(name: str, out: Out, no_model: RefusedError) -> int:
    """It is no model: a request's id, then."""
    from control_api.commands.why import why_request

    try:
        return why_request(name, out)
    except RefusedError:
        raise no_model from None


def _print(story: StoryView, every_line: bool, out: Out) -> None:
    last = story.last
    name = out.paint(story.model, "bold")
    out.line(f"{name} {story.what}, {_when(story)}{_now(story, out)}")
    lines = last.lines if every_line else last.lines[-LINES:]
    more = len(last.lines) - len(lines)
    said = [("", f"({more} lines before that: `ctl why {story.model} --all`)")] if more else []
    pairs = [
        ("  how", story.how),
        ("  why", cause(last)),
        *said,
        *(("", line.strip()) for line in lines if line.strip() not in cause(last)),
        ("  ran as", _ran(last)),
        *((f"  {pool.name}", _pool(pool)) for pool in last.memory if pool.own or pool.charged),
        ("  beside", ", ".join(_beside(last))),
        ("  means", story.meaning),
        ("  done", "; ".join(filter(None, (story.done, story.followed)))),
    ]
    _facts(out, pairs)
    for number, step in enumerate(story.steps):
        out.line(f"  {'next' if not number else '    '}    {step}")


def cause(last: IncidentView) -> str:
    """What decided, without the other lines that an error of a request carries."""
    return last.detail.partition(" / ")[0]


def _facts(out: Out, pairs: list[tuple[str, str]]) -> None:
    """As ``Out.facts``, with lines that belong to the one above."""
    for name, value in pairs:
        if value:
            out.line(f"{out.paint(name.ljust(8), 'dim')}  {value}")


def _when(story: StoryView, now: float | None = None) -> str:
    """``at 02:10``, ``17 times between 02:10 and 06:40``."""
    if story.count == 1:
        return f"at {clock(story.last_at, now)}"
    between = f"between {clock(story.first_at, now)} and {clock(story.last_at, now)}"
    return f"{story.count} times {between}"


def clock(at: float, now: float | None = None) -> str:
    """A time of today as ``02:10:07``, of another day as ``Fri 20 Nov 02:10``. Local."""
    then, today = time.localtime(at), time.localtime(now)
    same = (then.tm_year, then.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M:%S" if same else "%a %d %b %H:%M", then)


def _now(story: StoryView, out: Out) -> str:
    return f" (now {out.state(story.state)})" if story.state else " (no model of that name now)"


def _ran(last: IncidentView) -> str:
    context = f", context {last.context}, {last.slots} slots" if last.context else ""
    engine = f"{last.engine} {last.version}".strip()
    return f"{engine or 'not started'}{context} (start {last.generation})"


def _pool(pool: HeldView) -> str:
    took = f", took {size(pool.own_measured)}" if pool.own_measured else ""
    free = f", {size(pool.free)} free on the machine" if pool.free is not None else ""
    every = f"{size(pool.charged)} of {size(pool.budget)} for all"
    return f"{size(pool.own)} reckoned for it{took}; {every}{free}"


def _beside(last: IncidentView) -> Iterator[str]:
    for one in last.beside:
        busy = f", {one.leases} requests" if one.leases else ""
        yield f"{one.model} ({one.state}{busy}, {pools(one.bytes)})"


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL|REQUEST",
        nargs="?",
        help="only this one; or the x-request-id of an answer: where its time went",
    )
    parser.add_argument(
        "--all", action="store_true", help="everything that is remembered, with all its lines"
    )


def last_of(client: Client, model: str) -> dict[str, Any] | None:
    """The newest story of a model, as JSON; None if nothing of it died."""
    told = client.get("/incidents", model=model, limit=MOST)["stories"]
    return told[0] if told else None


COMMANDS: Final = {
    "why": Command(
        summary="tell what died and why, what was done about it, and what to do next",
        text="The same thing that happened again is told once, newest first. The record outlives\n"
        "the daemon; secrets are taken out.",
        examples=(
            ("ctl why", "the last stories of all models"),
            ("ctl why qwen3-coder", ""),
            ("ctl why --all", "all that is remembered, with every line"),
        ),
        run=why,
        arguments=_arguments,
    ),
}
