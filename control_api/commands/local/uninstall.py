"""``uninstall``: all that modelport has put on this machine, listed, then removed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any, Final

from control_api.commands.asking import agreed, need_somebody
from control_api.commands.command import Command
from control_api.commands.output import Out, size
from control_api.commands.progress import Steps

if TYPE_CHECKING:
    from control_api.commands.local.removing import Removal, Step

_SLOW: Final = ("service", "daemon", "models", "data")


def uninstall(args: Namespace, out: Out) -> int:
    from control_api.commands.local.removing import survey

    removal = survey(args)
    if args.dry_run:
        return _listed(removal, out)
    if removal.machines:
        out.note(f"! The service of the whole machine stays: {removal.machines}")
    if not removal.steps:
        return _nothing(removal, out)
    if not args.yes:
        if not out.json:
            _show(removal, out)
        text = f"{len(removal.steps)} things would be removed"
        need_somebody(text, "--dry-run lists them, --yes removes them.", out)
        if not agreed("Remove all of it?", out):
            out.note("Nothing was removed.")
            return 1
    done = [step.as_json() | _outcome(_do(step, out)) for step in removal.steps]
    troubles = [trouble for one in done for trouble in one["troubles"]]
    if out.json:
        out.value({"done": done, "ok": not troubles, **_rest(removal)})
        return 1 if troubles else 0
    for one in done:
        if one["ok"]:
            out.line(f"removed  {one['text']}")
    for trouble in troubles:
        out.note(f"! {trouble}")
    _say_rest(removal, out)
    return 1 if troubles else 0


def _do(step: Step, out: Out) -> list[str]:
    """Carry it out, with a sign of life where it may take a while; what could not be done."""
    if step.kind not in _SLOW:
        return step.do(out)
    with Steps(out) as shown:
        shown.show({"step": step.kind, "text": step.text})
        return step.do(out)


def _outcome(troubles: list[str]) -> dict[str, Any]:
    return {"ok": not troubles, "troubles": troubles}


def _listed(removal: Removal, out: Out) -> int:
    if out.json:
        out.value({"would": [step.as_json() for step in removal.steps], **_rest(removal)})
    elif not removal.steps:
        return _nothing(removal, out)
    else:
        _show(removal, out)
        _say_rest(removal, out)
    return 0


def _nothing(removal: Removal, out: Out) -> int:
    if out.json:
        out.value({"done": [], "ok": True, **_rest(removal)})
    else:
        out.line("There is nothing of modelport's here to remove.")
        _say_rest(removal, out)
    return 0


def _show(removal: Removal, out: Out) -> None:
    out.line("This goes:")
    for step in removal.steps:
        bytes_ = f"  ({size(step.bytes)})" if step.bytes else ""
        out.line(f"  {step.text}{bytes_}")
        for path in step.paths:
            if str(path) not in step.text:
                out.line(f"      {path}")


def _rest(removal: Removal) -> dict[str, Any]:
    return {
        "stays": [{"path": str(path), "why": why} for path, why in removal.stays],
        "machine": removal.machines or None,
        "program": removal.program or None,
    }


def _say_rest(removal: Removal, out: Out) -> None:
    for path, why in removal.stays:
        out.line(f"stays    {path} ({why})")
    if removal.program:
        out.line(f"-> The program itself: {removal.program}")


def _arguments(parser: ArgumentParser) -> None:
    from control_api.commands.local.service import _scope

    _scope(parser)
    parser.add_argument("--purge", action="store_true", help="the configuration, too")
    parser.add_argument(
        "--models", action="store_true", help="the weights, too, that modelport has pulled"
    )
    parser.add_argument("--dry-run", action="store_true", help="list, and remove nothing")
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    parser.add_argument("--force", action="store_true", help="cut running requests")


COMMANDS: Final = {
    "uninstall": Command(
        summary="remove all that modelport has put here but configuration, models and itself",
        text="The service with its units, sockets and environment; keys, state, logs, caches and\n"
        "engines; what `ctl env --write` wrote into clients' files; a raised GPU limit (Macs).\n"
        "What you have changed since in such a file stays beside it (*.after-modelport).\n"
        "--purge removes the configuration as well, --models weights that were not here before\n"
        "modelport pulled them. A failure is told, and the rest goes on. The last line says how\n"
        "to remove the program itself.",
        examples=(
            ("ctl uninstall --dry-run", "what would go, and what stays"),
            ("ctl uninstall", "lists, asks, removes"),
            ("ctl uninstall --purge --models --yes", "everything, without a question"),
        ),
        run=uninstall,
        arguments=_arguments,
    ),
}
