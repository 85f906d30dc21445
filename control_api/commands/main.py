"""Parse the command line, find the command, run it. Only the module of the verb is imported."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final

from control_api.commands.command import Command
from control_api.commands.output import Out, paint

OK, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3
HOST_ENV: Final = "MODELPORT_HOST"  # as control_api.client and .far have them: not imported yet
KEY_STDIN_ENV: Final = "MODELPORT_KEY_STDIN"
LOCAL: Final = "local"
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count

EPILOG: Final = """\
Every command has --help with examples, and --json. Before it: --host NAME|URL (or
MODELPORT_HOST) asks the daemon of another machine, with --key-stdin its key is read from a pipe.
Exit codes: 0 ok, 1 refused, 2 usage, 3 daemon unreachable."""


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb lives, and what the overview says of it."""

    module: str  # below control_api.commands
    group: str
    summary: str
    here: bool = False  # on files or processes of this machine, so never for another one


VERBS: Final[dict[str, Verb]] = {
    "serve": Verb("local.serve", "daemon", "start the daemon in this terminal", here=True),
    "status": Verb("daemon", "daemon", "address, memory, what is running"),
    "reload": Verb("daemon", "daemon", "read the configuration again"),
    "pause": Verb("daemon", "daemon", "free the memory for a while"),
    "resume": Verb("daemon", "daemon", "end a pause"),
    "shutdown": Verb("daemon", "daemon", "stop the daemon"),
    "doctor": Verb("local.doctor", "daemon", "look for what is wrong, with the remedy", here=True),
    "selftest": Verb(
        "local.selftest", "daemon", "check on a Mac what our tests cannot see", here=True
    ),
    "why": Verb("stories", "daemon", "what died and why, and what to do next"),
    "version": Verb("daemon", "daemon", "versions of this program and of the daemon"),
    "ls": Verb("models", "models", "all models"),
    "ps": Verb("models", "models", "running models"),
    "show": Verb("models", "models", "one model in detail"),
    "load": Verb("load", "models", "load a model and wait until it is ready"),
    "unload": Verb("load", "models", "unload a model, or all"),
    "pin": Verb("load", "models", "never evict a model"),
    "unpin": Verb("load", "models", "let a model be evicted again"),
    "reset": Verb("load", "models", "forget a model's crashes"),
    "run": Verb("run", "models", "ask a model something"),
    "test": Verb("test", "models", "prove that a model works for clients"),
    "bench": Verb("bench", "models", "how fast a model is here, and was before"),
    "add": Verb("local.catalog", "models", "add a model to the configuration", here=True),
    "set": Verb("local.catalog", "models", "change a model's settings", here=True),
    "rm": Verb("local.catalog", "models", "remove a model from the configuration", here=True),
    "import": Verb("local.imports", "models", "take over another program's models", here=True),
    "schedule": Verb("local.schedule", "models", "what is loaded and unloaded when"),
    "recommend": Verb("local.recommend", "models", "which model to take here", here=True),
    "pull": Verb("pull", "models", "download a model; see and end downloads"),
    "search": Verb("local.search", "models", "models on the hub that run here"),
    "prune": Verb("local.prune", "models", "free the disk of weights that nobody uses", here=True),
    "estimate": Verb("local.estimate", "models", "the memory that a model will take", here=True),
    "plan": Verb("local.plan", "models", "which models fit together, and how", here=True),
    "launch": Verb("local.launch", "clients", "start a client with a model of yours"),
    "env": Verb("local.env", "clients", "what a client needs: show it, write it, undo that"),
    "engine": Verb("local.engine", "engines", "the inference servers on this machine", here=True),
    "takeover": Verb(
        "local.takeover", "clients", "answer on the port of Ollama, LM Studio, …", here=True
    ),
    "lan": Verb("local.lan", "LAN", "let other machines in: on, off, status", here=True),
    "key": Verb("local.key", "LAN", "who may come in from other machines: add, ls, rm"),
    "upgrade": Verb("local.upgrade", "service", "a newer version, or the one of before", here=True),
    "uninstall": Verb(
        "local.uninstall", "service", "remove all that modelport has put here", here=True
    ),
    "service": Verb(
        "local.service", "service", "run at login: install, status, logs, stop, …", here=True
    ),
    "discover": Verb("local.discover", "LAN", "look for servers on the network"),
    "host": Verb("local.host", "LAN", "other machines that --host knows"),
    "logs": Verb("local.logs", "watching", "a model's log, or the daemon's"),
    "events": Verb("events", "watching", "what happens, as it happens"),
    "config": Verb("local.config", "settings", "path, show, check, edit, schema", here=True),
    "memory": Verb(
        "local.memory", "settings", "raise the GPU limit of a Mac, put it back", here=True
    ),
    "completion": Verb("completion", "settings", "completion for bash, zsh or fish"),
}
HIDDEN: Final = {"__complete": Verb("local.complete", "", "")}


def run(argv: Sequence[str]) -> int:
    """Run one command line (without the program's name). Never raises; gives the exit code."""
    try:
        code = _run(list(argv))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of our pipe has had enough; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except SystemExit as exit_:  # argparse: help or a usage error
        return exit_.code if isinstance(exit_.code, int) else USAGE
    return code


def _run(argv: list[str]) -> int:
    argv, host = _host_flags(argv)
    leading = [word for word in argv[:1] if word == "--json"]
    argv = argv[len(leading) :]
    if not argv or argv[0] in {"-h", "--help", "help"}:
        if len(argv) > 1 and argv[0] == "help":
            return _run([*argv[1:], "--help"])
        print(overview())
        return OK if argv else USAGE
    if argv[0] in {"-V", "--version"}:
        argv = ["version", *argv[1:]]
    name, rest = argv[0], [*argv[1:], *leading]
    command = find(name)
    if command is None:
        print(_unknown(name), file=sys.stderr)
        return USAGE
    if name in HIDDEN:  # its words are not ours to parse
        assert command.run is not None
        return command.run(Namespace(words=rest), Out())
    if name in VERBS and VERBS[name].here and (far := os.environ.get(HOST_ENV)):
        hint = "" if host else f" (or for now: ctl --host {LOCAL} {name} …)"
        print(
            f"ctl: `ctl {name}` works on files of the machine itself, not on those of {far[:80]}.\n"
            f"     Run it there{hint}.",
            file=sys.stderr,
        )
        return USAGE
    behind: list[str] = []
    if command.trailing and "--" in rest:
        cut = rest.index("--")
        rest, behind = [*rest[:cut], *leading], argv[2 + cut :]
    args = parser(name, command).parse_args(rest)
    args.rest = behind
    return call(args.command, args, Out(as_json=args.json))


def _host_flags(argv: list[str]) -> tuple[list[str], bool]:
    """Take ``--host NAME`` and ``--key-stdin`` from the front: what follows finds them in the
    environment, where people may have put the first. True: a host was given here."""
    given = False
    while argv and argv[0].partition("=")[0] in {"--host", "--key-stdin"}:
        flag, equals, value = argv.pop(0).partition("=")
        if flag == "--key-stdin":
            os.environ[KEY_STDIN_ENV] = "1"
            continue
        if not equals:
            value = argv.pop(0) if argv else ""
        if not value:
            print("ctl: --host needs a name or a URL: --host https://nas:8123", file=sys.stderr)
            raise SystemExit(USAGE)
        os.environ[HOST_ENV] = value
        given = True
    if os.environ.get(HOST_ENV) == LOCAL:
        del os.environ[HOST_ENV]
    return argv, given


def find(name: str) -> Command | None:
    """The command of a verb; its module is imported now."""
    verb = VERBS.get(name) or HIDDEN.get(name)
    if verb is None:
        return None
    module = import_module(f"control_api.commands.{verb.module}")
    commands: dict[str, Command] = module.COMMANDS
    return commands[name]


def call(command: Command, args: Namespace, out: Out) -> int:
    """Run a parsed command; what it raises becomes a message and an exit code."""
    from control_api.client import HostError, RefusedError, UnreachableError
    from daemon.core.problems import ProblemError

    assert command.run is not None
    try:
        return command.run(args, out)
    except (UnreachableError, HostError) as error:
        return _failed(out, "unreachable", str(error), error.hint, {}, UNREACHABLE)
    except RefusedError as error:
        return _failed(out, error.code, error.message, error.hint, error.facts, REFUSED)
    except ProblemError as error:
        found = error.problem
        facts = dict(found.facts)
        return _failed(out, found.code.value, found.message, found.hint, facts, REFUSED)


def _failed(
    out: Out, code: str, message: str, hint: str, facts: dict[str, Any], status: int
) -> int:
    if out.json:
        out.value({"error": {"code": code, "message": message, "hint": hint, "facts": facts}})
        return status
    mistakes = _mistakes(facts)
    if mistakes:  # all are shown now: no need to name the first, and where to see the others
        message, hint = message.partition(" First: ")[0], ""
    out.note(f"{paint('ctl:', 'red', out.err)} {message}")
    for mistake in mistakes:
        out.note(mistake)
    if hint:
        out.note(f"     {hint}")
    return status


def _mistakes(facts: dict[str, Any]) -> list[str]:
    """The mistakes of a configuration, one or two lines each."""
    lines = []
    for item in facts.get("mistakes") or ():
        if isinstance(item, dict):
            place = ":".join(str(item[key]) for key in ("source", "line") if item.get(key))
            where = "  ".join(filter(None, (place, str(item.get("where", "")))))
            text = f"  {where}: found {item.get('found')}; allowed: {item.get('allowed')}"
            lines += [text, *([f"      {item['hint']}"] if item.get("hint") else [])]
    return lines


def parser(name: str, command: Command) -> ArgumentParser:
    """The parser of one verb; ``args.command`` is what to run."""
    made = ArgumentParser(**_parser_texts(f"ctl {name}", command))
    _fill(made, f"ctl {name}", command)
    return made


def _fill(made: ArgumentParser, prog: str, command: Command) -> None:
    if not command.subcommands:
        command.arguments(made)
        made.add_argument("--json", action="store_true", help="JSON on stdout")
        made.set_defaults(command=command)
        return
    group = made.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for name, sub in command.subcommands.items():
        texts = _parser_texts(f"{prog} {name}", sub)
        _fill(group.add_parser(name, help=sub.summary, **texts), f"{prog} {name}", sub)


def _parser_texts(prog: str, command: Command) -> dict[str, Any]:
    wide = max((len(line) for line, _ in command.examples), default=0)
    lines = [f"  {line.ljust(wide)}   {text}".rstrip() for line, text in command.examples]
    summary = command.summary[0].upper() + command.summary[1:] + "."
    return {
        "prog": prog,
        "description": f"{summary}\n\n{command.text}".strip(),
        "epilog": "examples:\n" + "\n".join(lines),
        "formatter_class": RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }


def overview() -> str:
    """What ``ctl`` alone prints."""
    wide = max(len(name) for name in VERBS)
    lines = ["usage: ctl COMMAND [ARGUMENTS]", "", "One port for every language model here.", ""]
    for group in dict.fromkeys(verb.group for verb in VERBS.values()):
        lines.append(f"{group}:")
        for name, verb in VERBS.items():
            if verb.group == group:
                lines.append(f"  {name.ljust(wide)}  {verb.summary}")
        lines.append("")
    return "\n".join([*lines, EPILOG])


def _unknown(name: str) -> str:
    near = get_close_matches(name, VERBS, n=1, cutoff=0.5)
    meant = f" Did you mean `ctl {near[0]}`?" if near else ""
    return f"ctl: there is no command {name[:40]!r}.{meant}\n     `ctl --help` shows all."
