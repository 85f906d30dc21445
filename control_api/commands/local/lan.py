"""``lan``: let other machines in, by a key; keep them out again; see how it stands."""

from __future__ import annotations

import os
import socket
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from control_api.client import Client, RefusedError, UnreachableError, view
from control_api.commands.command import Command
from control_api.commands.local import network_lines
from control_api.commands.local.settings import add_config_flag, find_paths, tell_daemon
from control_api.commands.output import Out
from daemon.views import LanView, StatusView

if TYPE_CHECKING:
    from daemon.config.paths import Paths
    from daemon.config.settings import Settings

_KEY_NAMES: Final = ("lan", *(f"lan-{number}" for number in range(2, 100)))


@dataclass(slots=True)
class Standing:
    """How it stands. ``lan`` None: no daemon runs, and ``urls`` are what one would open."""

    settings: Settings
    urls: list[str]
    lan: LanView | None = None
    keys: list[str] = field(default_factory=list)  # names of those that open something
    key: str = ""  # one that was just made

    def value(self) -> dict[str, Any]:
        """For programs."""
        made = {"key": self.key} if self.key else {}
        about = asdict(self.lan) if self.lan is not None else {"enabled": self.settings.lan.enabled}
        return {**about, "urls": self.urls, "keys": self.keys, "running": bool(self.lan), **made}


def on(args: Namespace, out: Out) -> int:
    paths = find_paths(args.config)
    settings = _settings(paths)
    if args.docker and sys.platform == "darwin":
        return _docker_desktop(settings, out)
    changes = wanted(
        settings, docker=_bridge() if args.docker else "", tls=args.tls, mdns=args.mdns
    )
    keys, key = _keys(paths), ""
    if not keys:
        name, key = _make_key(paths)
        keys = [name]
    settings = _changed(settings, changes)
    if settings.tls.enabled and settings.tls.cert is None:
        _certify(paths, settings)
    _write(paths, settings, changes)
    told = tell_daemon(paths.config_file, out)
    if told is not None and not told.get("ok", True):
        raise RefusedError("config_invalid", str(told.get("problem", "It was not taken.")))
    found = standing(settings, keys, key, running=told is not None)
    if out.json:
        out.value(found.value())
    else:
        network_lines.show(found, network_lines.wish_for(found, Client()), out, qr=not args.no_qr)
    return 1 if found.lan is not None and not found.urls else 0


def off(args: Namespace, out: Out) -> int:
    paths = find_paths(args.config)
    settings = _settings(paths)
    changed = settings.lan.enabled
    told = None
    if changed:
        changes = {"lan.enabled": False}
        _write(paths, _changed(settings, changes), changes)
        told = tell_daemon(paths.config_file, out)
    if out.json:
        out.value({"enabled": False, "changed": changed, "told": told is not None})
    elif not changed:
        out.line("Other machines were not let in.")
    else:
        out.line("Other machines are kept out.")
        out.note("Keys stay as they are: `ctl key ls`, `ctl key rm NAME`.")
    return 0


def status(args: Namespace, out: Out) -> int:
    paths = find_paths(args.config)
    settings = _settings(paths)
    found = standing(settings, _keys(paths), "", running=True)
    if out.json:
        out.value(found.value())
    else:
        network_lines.show_status(found, out)
    return 0


# ---------------------------------------------------------------- what is wanted


def wanted(
    settings: Settings, *, docker: str, tls: bool | None, mdns: bool | None
) -> dict[str, Any]:
    """The keys that change, with None for those that go. Pure. ``docker``: the bridge, "" for all
    addresses; a place that the user wrote himself stays."""
    from daemon.lan.addresses import BRIDGES

    changes: dict[str, Any] = {}
    if not settings.lan.enabled:
        changes["lan.enabled"] = True
    if docker and settings.lan.host != docker:
        changes["lan.host"] = docker
    elif not docker and settings.lan.host in BRIDGES:
        changes["lan.host"] = None
    flags = {
        "tls.enabled": (tls, settings.tls.enabled),
        "lan.mdns": (mdns, settings.lan.mdns),
    }
    new = {key: flag for key, (flag, now) in flags.items() if flag is not None and flag is not now}
    return {**changes, **new}


def _changed(settings: Settings, changes: dict[str, Any]) -> Settings:
    """As they will be."""
    from daemon.config.sections import Lan, Tls

    parts: dict[str, Any] = {"lan": settings.lan, "tls": settings.tls}
    plain = {"lan": Lan(), "tls": Tls()}
    for dotted, value in changes.items():
        table, key = dotted.split(".")
        new = getattr(plain[table], key) if value is None else value
        parts[table] = parts[table].model_copy(update={key: new})
    return settings.model_copy(update=parts)


def _write(paths: Paths, settings: Settings, changes: dict[str, Any]) -> None:
    """Into the file; and the environment must not say otherwise."""
    from daemon.config.edit import set_keys

    if changes:
        set_keys(paths.config_file, changes)
    again = _settings(paths)
    if again.lan.enabled is not settings.lan.enabled:
        raise RefusedError(
            "config_invalid",
            "MODELPORT_LAN__ENABLED is set in the environment, and wins over the file.",
            "Unset it.",
        )


def _settings(paths: Paths) -> Settings:
    """As configured; without a file, which will be made, as by default."""
    from daemon.config.load import load_with_sources

    return load_with_sources(paths.config_file, environ=os.environ, missing_ok=True).settings


def _bridge() -> str:
    """The interface of containers. Raises ``RefusedError``."""
    from daemon.lan.addresses import BRIDGES, bridge, scan

    found = bridge(scan())
    if found is None:
        raise RefusedError(
            "invalid_request",
            f"There is no container bridge on this machine: {', '.join(BRIDGES)}.",
            "Start Docker or Podman first. Rootless Podman has none: `ctl lan on`, and in the "
            "container http://host.containers.internal.",
        )
    return found


def _docker_desktop(settings: Settings, out: Out) -> int:
    """Docker Desktop brings host.docker.internal to loopback: nothing need be opened."""
    url = f"http://host.docker.internal:{settings.server.port}"
    if out.json:
        out.value({"enabled": settings.lan.enabled, "urls": [url], "changed": False})
        return 0
    out.line(f"Containers on this Mac reach modelport already, without a key: {url}")
    return 0


# ---------------------------------------------------------------- keys, certificate, addresses


def _keys(paths: Paths) -> list[str]:
    """The names of the keys that open something."""
    from daemon.access.store import KeyStore

    return [key.name for key in KeyStore(paths.keys_file).read().live(time.time())]


def _make_key(paths: Paths) -> tuple[str, str]:
    """A first one: models may be used with it, no more. Its name, and the key itself."""
    from daemon.access.keys import Wanted
    from daemon.access.store import KeyStore

    store = KeyStore(paths.keys_file)
    taken = {key.name for key in store.read().keys}
    name = next(one for one in _KEY_NAMES if one not in taken)
    _, text = store.add(Wanted(name=name))
    return name, text


def _certify(paths: Paths, settings: Settings) -> None:
    """A certificate with the names and addresses of today. Raises ``ProblemError``."""
    from daemon.lan import addresses
    from daemon.lan.certificate import ensure

    found = addresses.chosen(addresses.scan(), settings.lan.host)
    timing = settings.timing
    ensure(
        paths.state_dir / "tls",
        addresses.names(socket.gethostname(), found, settings.server.hosts),
        life=timing.certificate_life,
        renewal=timing.certificate_renewal,
        now=time.time(),
        anew=True,
    )


def standing(settings: Settings, keys: list[str], key: str, *, running: bool) -> Standing:
    """As the daemon says, or as it would be."""
    if running:
        try:
            found = view(StatusView, Client().get("/status")).lan
        except UnreachableError:
            found = None
        if found is not None:
            return Standing(settings, found.urls, found, keys, key)
    urls: list[str] = []
    if settings.lan.enabled:
        from daemon.lan import addresses
        from daemon.service.ports import url

        scheme = "https" if settings.tls.enabled else "http"
        places = addresses.chosen(addresses.scan(), settings.lan.host)
        urls = [url(place, settings.server.port, scheme) for place in places]
    return Standing(settings, urls, None, keys, key)


def _on_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--docker", action="store_true", help="for containers of this machine only")
    parser.add_argument(
        "--tls", action=BooleanOptionalAction, help="encrypt, with a self-made certificate"
    )
    parser.add_argument("--mdns", action=BooleanOptionalAction, help="let `ctl discover` find it")
    parser.add_argument("--no-qr", action="store_true", help="no QR code")
    add_config_flag(parser)


COMMANDS: Final = {
    "lan": Command(
        summary="let other machines use your models, by a key",
        text="Without it only this machine is listened to. Programs here need no key, now or then.",
        examples=(
            ("ctl lan on --tls", "addresses, a key, a line for each client, a QR code"),
            ("ctl lan on --docker", "for containers of this machine only"),
            ("ctl lan status", ""),
        ),
        subcommands={
            "on": Command(
                summary="let other machines in; a key is made if there is none, and shown once",
                examples=(("ctl lan on --tls", ""), ("ctl lan on --docker --no-mdns", "")),
                run=on,
                arguments=_on_arguments,
            ),
            "off": Command(
                summary="keep other machines out again",
                examples=(("ctl lan off", ""),),
                run=off,
                arguments=add_config_flag,
            ),
            "status": Command(
                summary="addresses, certificate, keys, what is wrong",
                examples=(("ctl lan status", ""), ("ctl lan status --json", "")),
                run=status,
                arguments=add_config_flag,
            ),
        },
    ),
}
