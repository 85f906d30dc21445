"""``config``: where the settings are, what they are, whether they are right."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.client import RefusedError
from control_api.commands.asking import agreed
from control_api.commands.command import Command
from control_api.commands.local.settings import (
    add_config_flag,
    config_file,
    find_paths,
    load_settings,
    report_change,
    tell_daemon,
)
from control_api.commands.output import Out

if TYPE_CHECKING:
    from daemon.config.mistakes import ConfigError

EDITORS: Final = ("sensible-editor", "nano", "vim", "vi")


def show_path(args: Namespace, out: Out) -> int:
    paths = find_paths(args.config)
    places = {
        "config": paths.config_file,
        "state": paths.state_dir,
        "log": paths.log_dir,
        "cache": paths.cache_dir,
        "runtime": paths.runtime_dir,
    }
    if out.json:
        out.value({name: str(place) for name, place in places.items()})
    elif args.all:
        out.facts([(name, str(place)) for name, place in places.items()])
    else:
        out.line(str(paths.config_file))
    return 0


def show(args: Namespace, out: Out) -> int:
    from daemon.config.describe import show as describe

    loaded = load_settings(args.config)
    rows = describe(loaded.settings, loaded.sources, everything=args.all)
    if out.json:
        out.value([asdict(row) for row in rows])
        return 0
    if not rows:
        out.line("Nothing is set: everything has its default. `ctl config show --all` shows all.")
        return 0
    table = [(row.key, row.value or "-", out.paint(row.source, "dim")) for row in rows]
    out.table(("KEY", "VALUE", "FROM"), table)
    return 0


def check(args: Namespace, out: Out) -> int:
    from daemon.config.mistakes import ConfigError

    path = Path(args.file).absolute() if args.file else config_file(args.config)
    try:
        warnings = load_settings(str(path) if args.file else args.config).warnings()
    except ConfigError as error:
        if out.json:
            out.value({"ok": False, "file": str(path), "mistakes": error.to_json()})
        else:
            out.line(error.report())
        return 1
    if out.json:
        found = [asdict(mistake) for mistake in warnings]
        out.value({"ok": True, "file": str(path), "mistakes": [], "warnings": found})
        return 0
    for warning in warnings:
        out.line(f"{out.paint('!', 'yellow')} {warning.text()}")
    missing = "" if path.exists() else " (there is no file: everything has its default)"
    out.line(f"{path} is valid{missing}")
    return 0


def schema(args: Namespace, out: Out) -> int:
    from daemon.config.describe import schema as made

    out.value(made())  # a schema is JSON, also for people
    return 0


def edit(args: Namespace, out: Out) -> int:
    """Open a copy, and put it in place only when it is right."""
    from daemon.config.edit import init

    path = config_file(args.config)
    if not path.exists():
        init(path)
        out.note(f"{path} is new.")
    before = path.read_bytes()
    with tempfile.TemporaryDirectory(prefix="modelport-") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(before)
        after = _edited(copy, path, out)
    if after == before:
        _report_unchanged(out, path)
        return 0
    install(path, before, after)
    reloaded = tell_daemon(path, out)
    if out.json:
        out.value({"file": str(path), "changed": True, "reloaded": reloaded})
    else:
        report_change(out, "saved", path, reloaded)
    return 0


def _report_unchanged(out: Out, path: Path) -> None:
    if out.json:
        out.value({"file": str(path), "changed": False, "reloaded": None})
    else:
        out.line("Nothing was changed.")


def _edited(copy: Path, path: Path, out: Out) -> bytes:
    """The bytes of a copy that has been edited until it is valid. Raises ``RefusedError``."""
    from daemon.config.mistakes import ConfigError

    command = editor()
    while True:
        try:
            done = subprocess.run([*command, str(copy)], check=False)
        except OSError as error:
            raise RefusedError(
                "invalid_request",
                f"{command[0]} cannot be started: {error.strerror}.",
                "Set EDITOR to your editor.",
            ) from error
        if done.returncode != 0:
            raise RefusedError(
                "invalid_request",
                f"{command[0]} ended with status {done.returncode}.",
                "Nothing was changed.",
            )
        try:
            _validate(copy, path)
        except ConfigError as error:
            out.note(error.report())
            if not agreed("Edit again?", out, usual=True):
                raise _refused_edit(error, copy) from error
            continue
        return copy.read_bytes()


def _validate(copy: Path, path: Path) -> None:
    """Raises ``ConfigError`` as a load of ``path`` with this content would."""
    from daemon.config.load import load_text
    from daemon.config.mistakes import ConfigError, Mistake

    try:
        text = copy.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = Mistake(str(path), str(error), "a file of UTF-8 text")
        raise ConfigError([found], path.name) from None
    load_text(text, name=str(path), folder=path.parent)


def _refused_edit(error: ConfigError, copy: Path) -> RefusedError:
    """Nothing was changed, and what was typed is not lost."""
    handle, name = tempfile.mkstemp(prefix="modelport-edited-", suffix=".toml")
    with os.fdopen(handle, "wb") as kept:
        kept.write(copy.read_bytes())
    return RefusedError(
        "config_invalid",
        f"The configuration was not changed: {len(error.mistakes)} mistakes.",
        f"What you wrote is in {name}.",
    )


def editor() -> list[str]:
    """The user's editor as a command. Raises ``RefusedError`` if there is none."""
    for name in ("VISUAL", "EDITOR"):
        if words := shlex.split(os.environ.get(name, "")):
            return words
    for name in EDITORS:
        if found := shutil.which(name):
            return [found]
    raise RefusedError("invalid_request", "No editor was found.", "Set EDITOR to your editor.")


def install(path: Path, before: bytes, after: bytes) -> None:
    """Replace the file in one step, if it is still as it was read. Raises ``RefusedError``."""
    target = path.resolve()  # a link to a file elsewhere stays a link
    try:
        if target.read_bytes() != before:
            raise RefusedError(
                "config_invalid",
                f"{path} has been changed by another program meanwhile.",
                "Nothing was written; edit again.",
            )
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(after)
                file.flush()
                os.fchmod(file.fileno(), target.stat().st_mode & 0o777)
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise RefusedError(
            "config_invalid", f"{path} cannot be written: {reason}.", "The old file is kept."
        ) from error


def _all_flag(text: str) -> Any:
    def arguments(parser: ArgumentParser) -> None:
        parser.add_argument("--all", action="store_true", help=text)
        add_config_flag(parser)

    return arguments


def _check_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help="another file to check")
    add_config_flag(parser)


COMMANDS: Final = {
    "config": Command(
        summary="the configuration: where it is, what it says, whether it is right",
        examples=(
            ("ctl config edit", "change it, safely"),
            ("ctl config show --all", "every setting, and where it came from"),
        ),
        subcommands={
            "path": Command(
                summary="where the configuration file is",
                examples=(("ctl config path", ""), ("ctl config path --all", "all places")),
                run=show_path,
                arguments=_all_flag("also state, logs, cache and sockets"),
            ),
            "show": Command(
                summary="show what is set, and where it came from",
                examples=(
                    ("ctl config show", "what is not the default"),
                    ("ctl config show --all", "everything"),
                ),
                run=show,
                arguments=_all_flag("defaults too"),
            ),
            "check": Command(
                summary="look for mistakes, all at once",
                examples=(
                    ("ctl config check", ""),
                    ("ctl config check ./new.toml", "a file that is not in use"),
                ),
                run=check,
                arguments=_check_arguments,
            ),
            "edit": Command(
                summary="edit the configuration; it is saved only if it is right",
                text="Your editor gets a copy. VISUAL or EDITOR name the editor.",
                examples=(("ctl config edit", ""), ("EDITOR='code -w' ctl config edit", "")),
                run=edit,
                arguments=add_config_flag,
            ),
            "schema": Command(
                summary="print the JSON schema of the file: every key, its type and meaning",
                examples=(("ctl config schema > modelport.schema.json", "for an editor"),),
                run=schema,
            ),
        },
    ),
}
