"""``launch``: start a client with a model of ours, and go when it goes."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from control_api.client import (
    PING_SECONDS,
    Client,
    RefusedError,
    UnreachableError,
    segment,
    state_dir,
    view,
)
from control_api.clients import cage
from control_api.clients.registry import LAUNCHED, ClientProgram
from control_api.clients.values import Plan, Wish
from control_api.commands.asking import agreed, nobody
from control_api.commands.command import Command
from control_api.commands.local import wished
from control_api.commands.local.aside import own_folder, sweep
from control_api.commands.output import Out, size
from daemon.views import ModelView

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 60.0


def launch(args: Namespace, out: Out) -> int:
    program = wished.program_of(args.client)
    if args.print:
        return _print(args, out)
    found = find_program(program)
    folder = _sandbox(args)
    client = Client()
    if folder is not None and client.far is not None:
        raise RefusedError("invalid_request", "--sandbox is for models of this machine.")
    with ExitStack() as stack:
        stack.enter_context(_daemon(client, out, start=args.yes))
        name = _choose(client, args, out)
        _load(client, name, args, out)
        wish = wished.make_wish(client, name, args.out_tokens, caged=folder is not None)
        if args.write:
            wished.write_own(args.client, wish, out)
        home = None
        if not args.write or folder is not None:
            home = stack.enter_context(throw_away())
        plan = prepare(program, wish, home, folder is not None)
        for note in plan.notes if not args.write else ():
            out.note(note)
        if folder is None:
            return _run(found, plan, args.rest)
        assert home is not None
        return _run_caged(found, plan, args.rest, folder, home, wish, out)


def prepare(program: ClientProgram, wish: Wish, home: Path | None, caged: bool) -> Plan:
    """The plan, with its files written below ``home``; without one the user's own are used."""
    if home is None:
        return program.plan(wish)
    walled = caged and sys.platform == "linux"
    # there the key stays outside: the gate puts it in
    key = None if walled else wish.key
    plan = program.plan(replace(wish, folder=cage.HOME if walled else str(home), key=key))
    for file in plan.files:
        path = home / file.path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(file.text, "utf-8")
        path.chmod(0o600)
    return plan


@contextmanager
def throw_away() -> Iterator[Path]:
    """A folder for the client's files, gone afterwards; what killed launchers left goes too, also
    of their sandboxes.

    Not below /tmp: Codex makes no helpers of its own there, and then cannot run a command.
    """
    from control_api.commands.local import caged

    base = (state_dir() / "clients").resolve()
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    sweep(caged.SHORT, caged.PREFIX)
    with own_folder(base, "run-") as folder:
        yield folder


def find_program(program: ClientProgram) -> Path:
    """Where the client is. Raises ``RefusedError`` with the line that installs it."""
    found = shutil.which(program.program)
    if found is None:
        raise RefusedError(
            "client_missing",
            f"{program.title} is not installed (no {program.program} on your PATH).",
            f"Install it: {program.install}",
        )
    return Path(found).absolute()


def _sandbox(args: Namespace) -> Path | None:
    if args.sandbox is None:
        return None
    from control_api.commands.local import caged

    return caged.check(Path(args.sandbox))


def _run(found: Path, plan: Plan, rest: list[str]) -> int:
    from control_api.commands.local import child

    env = {name: value for name, value in os.environ.items() if name not in plan.unset}
    env["PWD"] = str(Path.cwd())  # some believe it more than the system
    return child.run([str(found), *plan.argv, *rest], {**env, **plan.env})


def _run_caged(
    found: Path, plan: Plan, rest: list[str], folder: Path, home: Path, wish: Wish, out: Out
) -> int:
    from control_api.commands.local import caged

    with caged.shell_of(folder, found, home, wish.url) as made:
        # links are followed here: the place of the link is not in the sandbox
        real = found.resolve() if sys.platform == "linux" else found
        moved = _moved(plan, wish.url, made.port)
        return caged.run(made, [str(real), *moved.argv, *rest], moved, out)


def _moved(plan: Plan, url: str, port: int) -> Plan:
    """The plan where the daemon is reached at another port (macOS: the gate's)."""
    there = f"http://127.0.0.1:{port}"
    if url.rstrip("/") == there:
        return plan
    env = {name: value.replace(url.rstrip("/"), there) for name, value in plan.env.items()}
    argv = tuple(word.replace(url.rstrip("/"), there) for word in plan.argv)
    return replace(plan, env=env, argv=argv)


def _print(args: Namespace, out: Out) -> int:
    """What would be done; nothing is started."""
    from control_api.commands.local import env

    client = Client()
    model = args.model or wished.default_model(client)
    caged = args.sandbox is not None
    wish = wished.make_wish(client, model, args.out_tokens, caged=caged)
    env.show(args.client, wish, out)
    return 0


# ------------------------------------------------------------ the model


def _choose(client: Client, args: Namespace, out: Out) -> str:
    if args.model:
        return str(client.get(f"/models/{segment(args.model)}")["name"])
    if not args.yes and not nobody(out):
        from control_api.commands.local.picker import pick

        return pick(client, out)
    return wished.default_model(client)


def _load(client: Client, name: str, args: Namespace, out: Out) -> None:
    """Load it with progress, as ``ctl load`` does; what is not on the disk is pulled if wanted."""
    model = view(ModelView, client.get(f"/models/{segment(name)}"))
    if model.state == "ready":
        return
    if not model.pulled and not args.yes:
        about = f" ({size(model.size)})" if model.size else ""
        if not agreed(f"{name} is not on the disk{about}. Download it?", out):
            raise RefusedError(
                "not_pulled", f"{name} is not on the disk.", f"`ctl pull {name}`, or say --yes."
            )
    from control_api.commands.load import load

    # Its result is a step of ours: stdout is the client's.
    quiet = Out(as_json=True, out=io.StringIO()) if out.json else Out(out=out.err, err=out.err)
    given: dict[str, Any] = {"ctx": None, "fit": None, "yes": args.yes, "no_wait": False}
    load(Namespace(model=name, **given), quiet)


# ------------------------------------------------------------ a daemon, if there is none


@contextmanager
def _daemon(client: Client, out: Out, *, start: bool) -> Iterator[None]:
    """With ``start``, a daemon for as long as the client runs where there is none."""
    try:
        client.get("/status", seconds=PING_SECONDS)
    except UnreachableError as error:
        if not start:
            error.hint += " `ctl launch --yes` starts one for as long as the client runs."
            raise
    else:
        yield
        return
    from control_api.commands.local.serve import daemon_argv, daemon_environ

    argv = daemon_argv(
        Namespace(config=None, host=None, port=None, service=False, verbose=0, insecure=False)
    )
    out.note("The daemon is started, for as long as this runs.")
    with tempfile.TemporaryFile() as said:
        # a session of its own: Ctrl-C is the client's
        daemon = subprocess.Popen(
            argv,
            env=daemon_environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        try:
            if not _answers(daemon):
                said.seek(0)
                text = said.read()[-2000:].decode("utf-8", "replace").strip()
                raise UnreachableError(f"The daemon did not start: {text}")
            yield
        finally:
            _end(daemon)


def _answers(daemon: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and daemon.poll() is None:
        try:
            Client().get("/status", seconds=PING_SECONDS)
        except (UnreachableError, RefusedError):
            time.sleep(0.05)
        else:
            return True
    return False


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _arguments(parser: ArgumentParser) -> None:
    wished.add_shared(parser, LAUNCHED)
    parser.add_argument(
        "--sandbox",
        metavar="DIR",
        help="see and change this folder alone, and reach nothing but models",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="show what would be set; start nothing")
    what.add_argument(
        "--write", action="store_true", help="use and change its own configuration, for good"
    )


COMMANDS: Final = {
    "launch": Command(
        summary="start a client with a model of yours",
        text=f"Clients: {', '.join(LAUNCHED)}. The model is loaded first; without MODEL\n"
        "a list to choose from is shown. The configuration is thrown away afterwards, unless\n"
        "--write puts it into the client's own (`ctl env CLIENT --undo` takes it out again).\n"
        "Words behind -- are the client's. --yes downloads what is missing and starts a daemon\n"
        "if none runs.",
        examples=(
            ("ctl launch claude qwen3-coder", ""),
            ("ctl launch codex", "choose a model from a list"),
            ("ctl launch opencode qwen3-coder -- run 'Fix the tests'", "words for opencode"),
            ("ctl launch claude qwen3-coder --sandbox ~/project", "with that folder alone"),
        ),
        run=launch,
        arguments=_arguments,
        trailing=True,
    ),
}
