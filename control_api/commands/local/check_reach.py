"""What ``ctl doctor`` says of who reaches the daemon: the keys, and other machines."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from control_api.commands.local.checks import Check

if TYPE_CHECKING:
    from daemon.config.settings import Settings

SOON: Final = 7 * 86_400.0  # seconds; a key that expires within is told
HEALTH_SECONDS: Final = 1.5
MOST_ADDRESSES: Final = 3
KEYS_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Keys:
    """How many keys open something now, and what is wrong with the rest."""

    live: int
    expired: tuple[str, ...] = ()
    expiring: tuple[str, ...] = ()


def read_keys(path: Path, now: float | None = None) -> Keys | Check:
    """The keys in the state directory; nothing is changed or moved. A file that is not there has
    none."""
    from daemon.files import read_private

    now = time.time() if now is None else now
    try:
        entries = json.loads(read_private(path, KEYS_LIMIT))["keys"]
        expires = {str(one["name"]): one.get("expires") for one in entries}
        ends = {name: float(at) for name, at in expires.items() if at is not None}
    except FileNotFoundError:
        return Keys(0)
    except OSError as error:
        text = f"{path} cannot be read: {error.strerror}"
        return Check("keys", "fail", text, f"Mend its rights: chmod 600 {path}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = f"{path} is no list of keys that we believe: {str(error) or type(error).__name__}"
        return Check("keys", "fail", text, "chmod 600 it, or make the keys anew: ctl key add")
    expired = tuple(sorted(name for name, at in ends.items() if at <= now))
    expiring = tuple(sorted(name for name, at in ends.items() if now < at <= now + SOON))
    return Keys(len(expires) - len(expired), expired, expiring)


def check_keys(path: Path, now: float | None = None) -> Iterator[Check]:
    """How many there are, which have expired or soon will, and whether others can read them."""
    found = read_keys(path, now)
    if isinstance(found, Check):
        yield found
        return
    with suppress(OSError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            text = f"{path} can be read by others ({mode:04o})"
            yield Check("keys", "warn", text, f"chmod 600 {path}")
    if found.expired:
        text = f"{', '.join(found.expired)} has expired"
        yield Check("keys", "warn", text, "ctl key rm NAME; ctl key add NAME")
    if found.expiring:
        text = f"{', '.join(found.expiring)} expires within a week"
        yield Check("keys", "warn", text, "ctl key add a new one, and give it to who uses that.")
    yield Check("keys", "ok", f"{found.live} in force" if found.live else "none")


def off_loopback(host: str) -> bool:
    """Whether listening at this address reaches beyond the machine."""
    from daemon.access.exposure import is_local

    return bool(host) and not is_local(host)


def own_addresses() -> list[str]:
    """IPv4 addresses of this machine that others may use."""
    import psutil

    every = (one for addresses in psutil.net_if_addrs().values() for one in addresses)
    return [o.address for o in every if o.family == socket.AF_INET and off_loopback(o.address)]


def answers(scheme: str, host: str, port: int) -> str:
    """ "" if a daemon answers ``/health`` there; else why not."""
    connection: http.client.HTTPConnection
    if scheme == "https":  # whose certificate it is, is not asked: only whether it answers
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, port, timeout=HEALTH_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=HEALTH_SECONDS)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return "" if status < 500 else f"status {status}"


def check_lan(
    settings: Settings,
    status: Mapping[str, Any] | None,
    keys: Keys | Check,
    *,
    addresses: Callable[[], list[str]] = own_addresses,
    ask: Callable[[str, str, int], str] = answers,
) -> Iterator[Check]:
    """Whether other machines reach the daemon: as wished, and with keys."""
    from daemon.access.addresses import address_of
    from daemon.access.exposure import NO_KEY

    wanted = settings.lan.enabled or off_loopback(settings.server.host)
    url = urlsplit(str((status or {}).get("url", "")))
    host, port = url.hostname or "", url.port or settings.server.port
    bound = bool(host) and off_loopback(host)
    if not wanted and not bound:
        yield Check("lan", "ok", "loopback only: no other machine reaches it")
        return
    lan = (status or {}).get("lan") or {}  # its ports are beside the fixed one
    opened = [str(url) for url in lan.get("urls", ())][:MOST_ADDRESSES]
    bare = isinstance(keys, Keys) and not keys.live
    if bare:
        reached = bool(opened) or bound
        yield _without_key(settings, running=status is not None, reached=reached, lan=lan)
    if status is None:
        if not bare:
            yield Check("lan", "ok", "on, once the daemon runs")
        return
    for problem in lan.get("problems", ()):
        if problem != NO_KEY:
            yield Check("lan", "warn", problem, "ctl lan status")
    if not opened:
        if bare and not bound:
            return  # and that is why
        if not bound:
            text = f"wished, but the daemon listens at {host}:{port} only"
            yield Check("lan", "warn", text, "ctl reload; ctl lan status says what is wrong.")
            return
        at = address_of(host)
        places = addresses()[:MOST_ADDRESSES] if at is not None and at.is_unspecified else [host]
        opened = [f"{url.scheme or 'http'}://{place}:{port}" for place in places]
    if not opened:
        yield Check("lan", "warn", "this machine has no address of a network", "Connect it.")
    yield from _asked(opened, ask)


def _without_key(
    settings: Settings, *, running: bool, reached: bool, lan: Mapping[str, Any]
) -> Check:
    """What it means that there is no key that opens anything, while others are to be let in."""
    make, back = "ctl key add NAME", "or keep to this machine: ctl lan off"
    if reached and lan.get("keyless"):
        text = "other machines are let in without a key: anybody there may use the models"
        return Check("lan", "fail", text, f"{make}, and start it without --insecure-no-auth.")
    if reached:
        text = "other machines reach the daemon, and there is no key: each request is refused"
        return Check("lan", "warn", text, f"{make}, {back}")
    if not running and off_loopback(settings.server.host):
        text = f"server.host = {settings.server.host} and no key: the daemon will not start so"
        return Check("lan", "fail", text, f'{make}, or set server.host = "127.0.0.1"')
    text = "on, but there is no key: nothing is open to other machines"
    return Check("lan", "warn", text, f"{make}, {back}")


def _asked(urls: list[str], ask: Callable[[str, str, int], str]) -> Iterator[Check]:
    """Whether each of them answers."""
    for where in urls:
        parts = urlsplit(where)
        why = ask(parts.scheme, parts.hostname or "", parts.port or 0)
        if why:
            fix = "Look at the firewall, and at the local-network permission (macOS)."
            yield Check("lan", "warn", f"{where} does not answer: {why}", fix)
        else:
            text = f"{where} answers from here; from another machine: curl {where}/health"
            yield Check("lan", "ok", text)
