"""What the commands that need no daemon share: the places, the file, telling a running daemon."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control_api.client import Client, RefusedError, UnreachableError, view
from control_api.commands.daemon import print_reload
from control_api.commands.output import Out
from daemon.views import ReloadView

if TYPE_CHECKING:
    from daemon.config.load import Loaded
    from daemon.config.paths import Paths


def add_config_flag(parser: ArgumentParser) -> None:
    """``--config FILE``, as the daemon has it."""
    parser.add_argument("--config", metavar="FILE", help="another configuration file")


def find_paths(config: str | None) -> Paths:
    """All places, as the daemon would find them with ``--config``."""
    from daemon.config.paths import Paths

    return Paths.find(os.environ, config=Path(config) if config else None)


def config_file(config: str | None) -> Path:
    """The configuration file; it need not exist."""
    return find_paths(config).config_file


def load_settings(config: str | None) -> Loaded:
    """The settings, as the daemon would read them. Raises ``ConfigError``."""
    from daemon.config.load import load_with_sources

    paths = find_paths(config)
    return load_with_sources(
        paths.config_file, environ=os.environ, missing_ok=not paths.config_named
    )


def tell_daemon(path: Path, out: Out) -> dict[str, Any] | None:
    """Let a running daemon read the file that has just been written.

    The answer of the reload, or None if no daemon runs. A daemon that uses another file is left
    alone, with a note. Raises ``RefusedError`` if it refuses the file.
    """
    client = Client()
    try:
        theirs = Path(str(client.get("/status").get("config", "")))
        if theirs.absolute() != path.absolute():
            out.note(f"The running daemon uses {theirs}: it was not told.")
            return None
        data: dict[str, Any] = client.post("/reload")
    except UnreachableError:
        return None
    except RefusedError as error:
        if error.code == "config_invalid":
            raise
        out.note(f"The daemon could not be told: {error.message} `ctl reload` tries again.")
        return None
    return data


def report_change(out: Out, done: str, path: Path, reloaded: dict[str, Any] | None) -> None:
    """Say what was done, and whether it is in force already."""
    out.line(f"{done} in {path}")
    if reloaded is None:
        out.line("No daemon was told: it is in force when one starts.")
    else:
        print_reload(view(ReloadView, reloaded), out)
