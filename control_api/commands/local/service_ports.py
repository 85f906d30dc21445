"""Room for the service: its port is free, and no other daemon of this user runs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control_api.client import Client, RefusedError, UnreachableError
from control_api.commands.asking import agreed
from control_api.commands.daemon import STOP_SECONDS, wait_gone
from control_api.commands.local.serviced import Serviced
from control_api.commands.output import Out

if TYPE_CHECKING:
    from daemon.config.settings import Settings


def make_room(
    service: Serviced, settings: Settings, config: Path, args: Namespace, out: Out
) -> None:
    """Raises ``RefusedError`` where the service could not start; on a terminal it asks first."""
    if service.manager.state().active == "running":
        return  # it is ours
    _end_foreground(args, out)
    if service.manager.state().sockets and _held(service):
        return  # by our own socket unit
    _free_port(settings, config, out)


def _held(service: Serviced) -> bool:
    return any(how in ("active", "listening") for _, how in service.manager.state().sockets)


def _end_foreground(args: Namespace, out: Out) -> None:
    """A daemon in somebody's terminal has the port, and the lock."""
    client = Client()
    try:
        running: dict[str, Any] = client.get("/status")
    except (UnreachableError, RefusedError):
        return
    pid = int(running["pid"])
    text = f"A daemon runs already (pid {pid}, {running.get('mode')}, {running.get('url')})."
    if not args.yes and not agreed(f"{text} Stop it, with its models, and go on?", out):
        raise RefusedError(
            "invalid_request", text, "`ctl shutdown` ends it, then install; --yes does both."
        )
    client.post("/shutdown")
    wait_gone(client, pid, STOP_SECONDS)
    out.note(f"stopped  the daemon with pid {pid}")


def _free_port(settings: Settings, config: Path, out: Out) -> None:
    """The fixed port; another one, if the user wants that."""
    from daemon.config.edit import set_keys
    from daemon.core.problems import ProblemError
    from daemon.service.ports import bind

    host, port = settings.server.host, settings.server.port
    try:
        bind(host, port).close()
    except ProblemError as error:
        found = error.problem
        offer = found.facts.get("offer")
        if not offer:
            raise RefusedError("config_invalid", found.message, found.hint) from None
        if not agreed(f"{found.message} Take port {offer} instead, for good?", out):
            raise RefusedError(
                "config_invalid",
                found.message,
                f"Free it, or set server.port to another such as {offer}: `ctl config edit`.",
                dict(found.facts),
            ) from None
        set_keys(config, {"server.port": offer})
        out.note(f"set server.port = {offer} in {config}")
