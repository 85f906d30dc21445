"""What ``ctl lan`` prints: addresses, a line for each client, a QR code, what to look out for."""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from control_api.client import Client, RefusedError, UnreachableError
from control_api.clients import elsewhere
from control_api.clients.values import OUT_TOKENS, Served, Wish
from control_api.commands.local import wished
from control_api.commands.output import Out

if TYPE_CHECKING:
    from control_api.commands.local.lan import Standing

KEY: Final = "YOUR-KEY"
MODEL: Final = "MODEL"
_DAY: Final = 86400.0
DOCKER_HOST: Final = "host.docker.internal"


def wish_for(found: Standing, client: Client) -> Wish:
    """What the lines are made of: the likeliest address, and a model of yours if there is one."""
    url = found.urls[0] if found.urls else "http://127.0.0.1"
    key = found.key or KEY
    try:
        name = found.settings.server.default_model or wished.default_model(client)
        made = wished.make_wish(client, name, OUT_TOKENS)
    except (UnreachableError, RefusedError):
        return Wish(url=url, model=Served(MODEL), key=key, platform=sys.platform)
    return Wish(url=url, model=made.model, small=made.small, key=key, platform=sys.platform)


def show(found: Standing, wish: Wish, out: Out, *, qr: bool) -> None:
    """After ``ctl lan on``."""
    _addresses(found, out)
    if found.key:
        out.facts([("key", found.key)])
        out.note(f"The key {found.keys[0]!r} is shown once: keep it now. `ctl key rm` ends it.")
    else:
        out.facts([("keys", ", ".join(found.keys))])
    _hints(found, out)
    if not found.urls:
        return
    lan = found.lan
    trust = lan is not None and lan.tls and lan.self_made
    docker = _for_docker(found)
    if docker:
        place = urlsplit(found.urls[0])
        wish = Wish(
            url=f"{place.scheme}://{DOCKER_HOST}:{place.port}",
            model=wish.model,
            small=wish.small,
            key=wish.key,
            platform=wish.platform,
        )
    out.line()
    if trust and lan is not None:
        out.line(f"Copy {lan.certificate} there as {elsewhere.CERT}: clients trust nothing else.")
    for name, text in elsewhere.lines(wish, trust=trust, docker=docker).items():
        out.line(f"{out.paint(name, 'bold')}\n  {text}")
    if qr and out.tty and not docker:
        _codes(found, out)


def show_status(found: Standing, out: Out) -> None:
    """For ``ctl lan status``."""
    if not found.settings.lan.enabled:
        out.line("Only this machine is listened to. `ctl lan on` lets others in, by a key.")
        return
    _addresses(found, out)
    out.facts([("keys", ", ".join(found.keys) or "none")])
    _hints(found, out)


def _addresses(found: Standing, out: Out) -> None:
    lan = found.lan
    out.facts([("address", url) for url in found.urls] or [("address", "none is open")])
    if lan is None:
        out.line("No daemon runs: it is in force when one starts.")
        return
    if lan.tls:
        until = ""
        if lan.expires is not None:
            until = time.strftime(", until %Y-%m-%d", time.localtime(lan.expires))
        kind = "self-made" if lan.self_made else "yours"
        out.facts(
            [("certificate", f"{lan.certificate} ({kind}{until})"), ("SHA-256", lan.fingerprint)]
        )
    out.facts([("announced", f"{lan.announced} (`ctl discover` finds it)" * bool(lan.announced))])


def _hints(found: Standing, out: Out) -> None:
    mark = out.paint("!", "yellow")
    for text in hints(found, sys.platform):
        out.line(f"{mark} {text}")


def hints(found: Standing, system: str) -> Iterator[str]:
    """What a person should know, most important first."""
    lan = found.lan
    yield from lan.problems if lan is not None else ()
    if not found.settings.tls.enabled and not _for_docker(found):
        yield (
            "Not encrypted: on the way, keys and texts can be read. `ctl lan on --tls` encrypts."
        )
    for url in lan.public if lan is not None else ():
        yield (
            f"{url} may be reached from the whole internet, unless your router forbids it; "
            'lan.host = "0.0.0.0" leaves IPv6 out.'
        )
    if lan is not None and lan.expires is not None and lan.expires - time.time() < 7 * _DAY:
        yield "The certificate ends within a week."
    port = found.settings.server.port
    if system == "darwin":
        yield (
            "macOS asks whether modelport may accept connections and find devices on the local "
            "network: allow both (System Settings: Privacy & Security, Local Network; Firewall)."
        )
    elif shutil.which("ufw"):
        yield f"If others cannot connect, the firewall may be why: sudo ufw allow {port}/tcp"
    elif shutil.which("firewall-cmd"):
        line = f"sudo firewall-cmd --add-port={port}/tcp"
        yield f"If others cannot connect, the firewall may be why: {line}"


def _for_docker(found: Standing) -> bool:
    from daemon.lan.addresses import BRIDGES

    return found.settings.lan.host in BRIDGES


def _codes(found: Standing, out: Out) -> None:
    """For a telephone: the address, and the key while it is known."""
    out.line()
    out.line(f"{found.urls[0]}/v1")
    _code(f"{found.urls[0]}/v1", out)
    if found.key:
        out.line("the key")
        _code(found.key, out)


def _code(text: str, out: Out) -> None:
    import segno

    drawn = io.StringIO()
    segno.make(text, micro=False).terminal(drawn, compact=True)
    encoding = getattr(out.out, "encoding", None) or "ascii"
    try:
        drawn.getvalue().encode(encoding)
    except UnicodeEncodeError:
        return  # a terminal that cannot draw it
    for row in drawn.getvalue().splitlines():
        # white on black, whatever the colours of the terminal are: scanners want it so
        print(f"\x1b[97;40m{row}\x1b[0m", file=out.out)
    out.out.flush()
