"""``host``: other machines that ``--host`` knows, with their keys and certificates."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import Final

from control_api.client import PING_SECONDS, Client
from control_api.commands.command import Command
from control_api.commands.output import Out


def add(args: Namespace, out: Out) -> int:
    """Ask it something first: what does not work is not kept."""
    from control_api.far import KEY_STDIN_ENV, as_json, meet
    from control_api.hosts import Host, Hosts, checked_name, plain_url, read_fingerprint

    if args.key_stdin:
        os.environ[KEY_STDIN_ENV] = "1"
    hosts = Hosts.mine()
    pinned = read_fingerprint(args.fingerprint) if args.fingerprint else ""
    new = Host(checked_name(args.name), plain_url(args.url), pinned)
    before = hosts.all().get(new.name)
    if before is not None and before.url == new.url:
        new = replace(new, key=before.key, fingerprint=pinned or before.fingerprint)
    far = meet(new, hosts)
    client = Client.of(far)
    theirs = client.get("/version", seconds=PING_SECONDS)
    far.keep()
    if out.json:
        out.value({**as_json(far.host, kept=True), "version": theirs.get("version")})
        return 0
    out.line(f"{new.name} is {new.url}, modelport {theirs.get('version')}")
    out.note(f"For example: ctl --host {new.name} ps")
    return 0


def ls(args: Namespace, out: Out) -> int:
    from control_api.far import as_json
    from control_api.hosts import Hosts

    hosts = Hosts.mine()
    found = [(one, hosts.key(one) is not None) for one in hosts.all().values()]
    if out.json:
        out.value({"hosts": [as_json(one, kept) for one, kept in found]})
    elif not found:
        out.line("No other machine is known. `ctl discover` looks for some, `ctl host add` adds.")
    else:
        rows = [
            [one.name, one.url, "yes" if kept else "no", one.fingerprint[:23] or "-"]
            for one, kept in found
        ]
        out.table(["NAME", "URL", "KEY", "CERTIFICATE"], rows)
    return 0


def rm(args: Namespace, out: Out) -> int:
    from control_api.far import as_json
    from control_api.hosts import Hosts

    gone = Hosts.mine().forget(args.name)
    if out.json:
        out.value(as_json(gone, kept=False))
    else:
        out.line(f"forgot {gone.name} and its key")
        out.note("The key still opens that machine: `ctl key rm` there ends it.")
    return 0


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what you call it")
    parser.add_argument("url", metavar="URL", help="https://HOST:PORT, as `ctl lan status` says")
    parser.add_argument("--key-stdin", action="store_true", help="its key comes from a pipe")
    parser.add_argument("--fingerprint", metavar="SHA256", help="of its certificate: accepted")


def _one(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="as `ctl host ls` shows it")


COMMANDS: Final = {
    "host": Command(
        summary="other machines whose daemons ctl can ask",
        text="`ctl --host NAME …` then asks the daemon there. A key of scope control is needed:\n"
        "on that machine, `ctl key add NAME --scope control`. It is kept in your keyring, or,\n"
        "where there is none, in hosts.json (0600) beside the configuration.",
        examples=(
            ("ctl host add nas https://nas.local:8123", "asks for the key, shows the certificate"),
            ("ctl --host nas ps", "what runs there"),
        ),
        subcommands={
            "add": Command(
                summary="remember a machine, its key and its certificate",
                examples=(
                    ("ctl host add nas https://nas.local:8123", ""),
                    ("pass nas | ctl host add nas http://nas:8123 --key-stdin", "from a pipe"),
                ),
                run=add,
                arguments=_add_arguments,
            ),
            "ls": Command(
                summary="the machines that are known", examples=(("ctl host ls", ""),), run=ls
            ),
            "rm": Command(
                summary="forget a machine and its key",
                examples=(("ctl host rm nas", ""),),
                run=rm,
                arguments=_one,
            ),
        },
    ),
}
