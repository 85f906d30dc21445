"""Putting an engine on the shelf and having it used: for ``ctl engine``, and for whoever sets
modelport up (:func:`embedded`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from control_api.client import RefusedError
from control_api.commands.local.settings import config_file, find_paths, tell_daemon
from control_api.commands.output import Out
from control_api.commands.progress import Notice, Steps

if TYPE_CHECKING:
    from daemon.engines.base import Installed
    from daemon.engines.install.children import Tell
    from daemon.engines.install.shelf import Item, Shelf
    from daemon.engines.install.work import Workshop

T = TypeVar("T")

RELEASES_ENV: Final = "MODELPORT_LLAMA_RELEASES"


def shelf_of(config: str | None) -> Shelf:
    """What is installed below the state directory."""
    from daemon.engines.install.shelf import Shelf

    return Shelf(find_paths(config).engines_dir)


def workshop(config: str | None, tell: Tell) -> Workshop:
    """What installs on this machine; looks at its graphics."""
    from daemon.engines.install import children, fetch, probes
    from daemon.engines.install.work import Workshop

    paths = find_paths(config)
    return Workshop(
        shelf_of(config),
        probes.look(os.environ),
        children.find_tools(os.environ),
        os.environ,
        tell,
        paths.cache_dir,
        os.environ.get(RELEASES_ENV) or fetch.RELEASES,
    )


def put(
    config: str | None,
    engine: str,
    version: str | None,
    out: Out,
    source: str | None = None,
    *,
    better: bool = False,
) -> Item:
    """Install an engine (None: its newest version), without using it. For other commands too.
    ``better``: see ``Workshop.install``.

    Raises RefusedError.
    """
    with Steps(out) as steps:

        def tell(step: str, text: str, fraction: float | None) -> None:
            if step == "note":
                steps.note(text)
            else:
                steps.show({"step": step, "text": text, "fraction": fraction})

        steps.show({"step": "look", "text": "what this machine has"})
        shop = workshop(config, tell)
        return guarded(lambda: shop.install(engine, version, source, better=better))


def embedded(config: str | None, out: Out) -> Item | None:
    """Install the embedded engine where nothing here runs a GGUF yet, and use it: for whoever sets
    modelport up. None: there is something already. Raises RefusedError."""
    if any(current(config, engine) is not None for engine in ("llama-server", "xllamacpp")):
        return None
    item = put(config, "xllamacpp", None, out)
    switch_to(config, item.engine, item.version, 0, out)
    return item


def current(config: str | None, engine: str) -> Installed | None:
    """The engine that is used now; None: none is found."""
    from control_api.commands.local.engine import registry_of
    from daemon.core.problems import ProblemError

    try:
        return registry_of(config).find(engine)
    except ProblemError:
        return None


def switch_to(config: str | None, engine: str, version: str, trial: int, out: Out) -> None:
    from daemon.engines.install.shelf import switch

    shelf = shelf_of(config)
    guarded(lambda: shelf.change(engine, lambda now: switch(now, version, trial)))
    tell_running(config, out)


def tell_running(config: str | None, out: Out) -> None:
    """Let a running daemon know; what runs goes on running."""
    with Notice(out).lasting("telling the daemon"):
        tell_daemon(config_file(config), out)


def guarded(work: Callable[[], T]) -> T:
    """Its problems as refusals of the command line."""
    from daemon.core.problems import ProblemError

    try:
        return work()
    except ProblemError as error:
        problem = error.problem
        raise RefusedError(problem.code, problem.message, problem.hint) from None
    except OSError as error:
        what = f"{error.filename or 'The disk'}: {error.strerror or error}."
        raise RefusedError("disk", what, "Look at its rights and its room: ctl doctor") from None
