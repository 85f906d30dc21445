"""``events``: what happens, as it happens."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from typing import Any, Final

from control_api.client import Client, SseEvent
from control_api.commands.command import Command
from control_api.commands.output import Out

_KINDS: Final = {
    "ready": "green",
    "failed": "red",
    "crash": "red",
    "exited": "yellow",
    "evict": "yellow",
}


def events(args: Namespace, out: Out) -> int:
    follow = not args.no_follow
    since: int | None = args.since
    if since is None and not follow:
        since = 0
    client = Client()
    while True:
        last, dropped = _read(client, since, follow, args.model, out)
        if not dropped:
            break
        since = last  # we were too slow: go on where we were
    if follow:
        out.note("The daemon has stopped.")
    return 0


def _read(
    client: Client, since: int | None, follow: bool, model: str | None, out: Out
) -> tuple[int | None, bool]:
    """Print one stream to its end; the last id, and whether the daemon dropped us for slowness."""
    last, dropped = since, False
    for event in client.events(since=since, follow=follow):
        if event.kind == "gap":
            dropped = event.data.get("reason") == "slow reader"
            if out.json:
                out.value_line({"kind": "gap", **event.data})
            elif not dropped:
                out.note(f"some events are missing: {event.data.get('reason', 'forgotten')}")
            continue
        last = event.id if event.id is not None else last
        if model is None or event.data.get("model") == model:
            _print(event, out)
    return last, dropped


def _print(event: SseEvent, out: Out) -> None:
    data = event.data
    if out.json:
        out.value_line(data)
        return
    at = time.strftime("%H:%M:%S", time.localtime(float(data.get("at", 0.0))))
    kind = event.kind.ljust(14)
    if event.kind in _KINDS:
        kind = out.paint(kind, _KINDS[event.kind])
    name = str(data.get("model") or "-").ljust(24)
    text = str(data.get("text") or "") or _facts(data.get("facts"))
    out.line(f"{out.paint(at, 'dim')}  {kind}  {name}  {text}".rstrip())


def _facts(facts: Any) -> str:
    if not isinstance(facts, dict):
        return ""
    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in facts.items()
    )


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="only events of this model")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on with new events (the default)"
    )
    parser.add_argument(
        "--no-follow", action="store_true", help="only what is remembered, then stop"
    )
    parser.add_argument(
        "--since", type=int, metavar="ID", help="begin after this event; 0 is the oldest one kept"
    )


COMMANDS: Final = {
    "events": Command(
        summary="show what happens: loads, evictions, crashes, refusals",
        text="With --json, one JSON object per line.",
        examples=(
            ("ctl events", "from now on, until Ctrl-C"),
            ("ctl events --since 0", "first what is remembered"),
            ("ctl events --no-follow --json", "the remembered ones, for a program"),
        ),
        run=events,
        arguments=_arguments,
    ),
}
