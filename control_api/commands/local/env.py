"""``env``: what a client needs to use our models, shown, written, or undone."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import Any, Final

from control_api.client import Client, RefusedError
from control_api.clients import open_webui, shell
from control_api.clients.kept import KeptError
from control_api.clients.registry import CLIENTS
from control_api.clients.values import Plan, Wish
from control_api.commands.asking import agreed
from control_api.commands.command import Command
from control_api.commands.local import wished
from control_api.commands.output import Out


def env(args: Namespace, out: Out) -> int:
    if args.undo:
        return _undo(args, out)
    client = Client()
    model = args.model or wished.default_model(client)
    wish = wished.make_wish(client, model, args.out_tokens)
    if args.write:
        paths = wished.write_own(args.client, wish, out)
        if out.json:
            out.value({"client": args.client, "written": paths})
        elif not paths:
            out.line(f"{wished.program_of(args.client).title} is set up so already.")
        return 0
    show(args.client, wish, out)
    return 0


def show(name: str, wish: Wish, out: Out) -> None:
    """Print the plan: lines for a shell, or JSON."""
    program = wished.program_of(name)
    if program.files_needed:
        wish = replace(wish, folder=shell.FOLDER)
    plan = program.plan(wish)
    if out.json:
        found = as_json(plan)
        if name == "open-webui":
            found["docker"] = open_webui.docker_line(wish)
        out.value({"client": name, "program": program.program, **found})
        return
    for line in shell.lines(plan, program.program):
        out.line(line)


def as_json(plan: Plan) -> dict[str, Any]:
    """A plan for programs. ``$MODELPORT_CLIENT`` stands for a folder of the reader's choice."""
    return {
        "env": dict(plan.env),
        "unset": list(plan.unset),
        "argv": list(plan.argv),
        "files": {file.path: file.text for file in plan.files},
        "notes": list(plan.notes),
    }


def _undo(args: Namespace, out: Out) -> int:
    def consent(lost: str) -> bool:
        if args.yes:
            return True
        if not out.json and out.err.isatty():
            out.note("This was changed since, and would be lost:\n" + lost)
        return agreed("Put the old text back all the same?", out)

    try:
        paths = [str(path) for path in wished.keeper().undo(args.client, consent=consent)]
    except KeptError as error:
        raise RefusedError("client_config", str(error), error.hint) from None
    if out.json:
        out.value({"client": args.client, "restored": paths})
        return 0
    for path in paths:
        out.line(f"as before  {path}")
    if not paths:
        out.line(f"Nothing was written for {wished.program_of(args.client).title}.")
    return 0


def _arguments(parser: ArgumentParser) -> None:
    wished.add_shared(parser, tuple(CLIENTS))
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="lines for a shell (as without it)")
    what.add_argument(
        "--write", action="store_true", help="into its own configuration; the old text is kept"
    )
    what.add_argument("--undo", action="store_true", help="put back what was there before --write")


COMMANDS: Final = {
    "env": Command(
        summary="what a client needs to use your models: show it, write it, undo that",
        text=f"Clients: {', '.join(CLIENTS)}.\n"
        "Real keys of cloud services are unset. `--write` keeps the old text beside each file\n"
        "(*.before-modelport); `--undo` puts it back, and says what would be lost where you have\n"
        "changed the file since (--yes: all the same).",
        examples=(
            ('eval "$(ctl env claude qwen3-coder)"', "for this shell"),
            ("ctl env codex qwen3-coder --write", "into ~/.codex/config.toml"),
            ("ctl env codex --undo", "as it was"),
            ("ctl env open-webui", "the line for Docker"),
        ),
        run=env,
        arguments=_arguments,
    ),
}
