"""``key``: who may come in from other machines, and what they may do there.

A running daemon is asked; without one the file is changed itself, under its lock. Only the hash of
a key is kept, so it is shown once.
"""

from __future__ import annotations

import re
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from control_api.client import Client, UnreachableError, segment, view
from control_api.commands.command import Command, whole
from control_api.commands.output import Out, duration
from daemon.views import KeyView

if TYPE_CHECKING:
    from daemon.access.store import KeyStore

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_LASTS: Final = re.compile(r"([0-9]{1,6})([smhdwy])")


def add(args: Namespace, out: Out) -> int:
    wanted: dict[str, Any] = {
        "name": args.name,
        "scope": args.scope,
        "lasts": args.expires,
        "models": args.models,
        "priority": args.priority,
        "at_once": args.limit,
        "per_minute": args.per_minute,
        "default_model": args.default_model,
    }
    try:
        made = Client().post("/keys", **wanted)
        text, about = made["key"], view(KeyView, made["about"])
    except UnreachableError:
        text, about = _add(wanted)
    if out.json:
        out.value({"key": text, "about": asdict(about)})
        return 0
    out.line(text)
    out.note("It is shown once: keep it now. Clients send it as their API key.")
    if about.expires is not None:
        out.note(f"It ends on {_day(about.expires)}.")
    out.note(f"Take it back: ctl key rm {about.name}")
    return 0


def ls(args: Namespace, out: Out) -> int:
    try:
        keys = [view(KeyView, one) for one in Client().get("/keys")["keys"]]
    except UnreachableError:
        now = time.time()
        keys = [key.view(now) for key in _store().read().keys]
    if out.json:
        out.value({"keys": [asdict(key) for key in keys]})
    elif not keys:
        out.line("There is no key: other machines are not let in. Make one: ctl key add NAME")
    else:
        headers = ("NAME", "SCOPE", "MODELS", "LIMITS", "EXPIRES", "USED")
        out.table(headers, [_row(key) for key in keys])
    return 0


def rm(args: Namespace, out: Out) -> int:
    try:
        Client().post(f"/keys/{segment(args.key)}/remove")
    except UnreachableError:
        _store().remove(args.key)
    if out.json:
        out.value({"removed": args.key})
    else:
        out.line(f"The key {args.key} opens nothing any more.")
    return 0


def _add(wanted: dict[str, Any]) -> tuple[str, KeyView]:
    from daemon.access.keys import Wanted

    key, text = _store().add(Wanted(**{**wanted, "models": tuple(wanted["models"])}))
    return text, key.view(time.time())


def _store() -> KeyStore:
    from control_api.commands.local.settings import find_paths
    from daemon.access.store import KeyStore

    return KeyStore(find_paths(None).keys_file)


def _row(key: KeyView) -> tuple[str, ...]:
    limits = [f"{key.at_once} at once"] if key.at_once else []
    limits += [f"{key.per_minute}/min"] if key.per_minute else []
    expires = "never" if key.expires is None else _day(key.expires)
    return (
        key.name,
        "control" if "control" in key.scopes else "use",
        ",".join(key.models) or "all",
        ", ".join(limits) or "none",
        f"{expires} (over)" if key.expired else expires,
        "never" if key.used is None else f"{duration(max(0.0, time.time() - key.used))} ago",
    )


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def names() -> list[str]:
    """The names of all keys, for completion."""
    from control_api.client import RefusedError
    from daemon.core.problems import ProblemError

    try:
        return sorted(str(one["name"]) for one in Client().get("/keys", seconds=1.0)["keys"])
    except (UnreachableError, RefusedError, KeyError, TypeError):
        pass
    try:
        return sorted(key.name for key in _store().read().keys)
    except ProblemError:
        return []


def _lasts(text: str) -> float | None:
    """Seconds. ``never`` is None."""
    if text == "never":
        return None
    match = _LASTS.fullmatch(text)
    if match is None or not int(match[1]):
        raise ArgumentTypeError(f"{text!r} is no time; allowed: 12h, 30d, 1y or never")
    return float(int(match[1]) * _UNITS[match[2]])


def _models(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="whose it is: laptop, anna, ci")
    parser.add_argument(
        "--scope",
        choices=("use", "control"),
        default="use",
        help="use models (default), or also control the daemon",
    )
    parser.add_argument(
        "--expires", type=_lasts, metavar="TIME", help="ends after 12h, 30d, 1y; default: never"
    )
    parser.add_argument(
        "--models", type=_models, default=[], metavar="A,B", help="only these; qwen* is a pattern"
    )
    parser.add_argument(
        "--priority",
        type=int,
        default=0,
        metavar="N",
        help="it goes before those with a lower one",
    )
    parser.add_argument(
        "--limit",
        type=whole(1, 1_000_000, "requests"),
        default=0,
        metavar="N",
        help="requests at once, at the most",
    )
    parser.add_argument(
        "--per-minute",
        type=whole(1, 1_000_000, "requests"),
        default=0,
        metavar="N",
        help="requests a minute, at the most",
    )
    parser.add_argument(
        "--default-model",
        default="",
        metavar="MODEL",
        dest="default_model",
        help="answers where a request names no model of ours",
    )


def _rm_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("key", metavar="NAME", help="which key")


_ADD = (
    ("ctl key add laptop", "may use all models, for ever"),
    ("ctl key add guest --expires 1d --models gemma", ""),
    ("ctl key add desk --scope control", "may also load, unload and reload from elsewhere"),
)

COMMANDS: Final = {
    "key": Command(
        summary="who may come in from other machines",
        examples=(_ADD[0], ("ctl key ls", ""), ("ctl key rm laptop", "it opens nothing any more")),
        subcommands={
            "add": Command(
                summary="make a key, and show it once",
                text="Only its hash is kept. On this machine nobody needs a key to use models.",
                examples=_ADD,
                run=add,
                arguments=_add_arguments,
            ),
            "ls": Command(
                summary="which keys there are, and when they were used",
                examples=(("ctl key ls", ""), ("ctl key ls --json", "")),
                run=ls,
            ),
            "rm": Command(
                summary="remove a key; it is refused from the next request on",
                examples=(("ctl key rm laptop", ""),),
                run=rm,
                arguments=_rm_arguments,
            ),
        },
    ),
}
