"""``engine install``, ``update``, ``use`` and ``rollback``. What runs is never touched: the daemon
takes another version at the next start of a model."""

from __future__ import annotations

import hashlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from control_api.client import RefusedError
from control_api.commands.command import Command
from control_api.commands.local.engine_put import (
    RELEASES_ENV,
    current,
    guarded,
    put,
    shelf_of,
    switch_to,
    tell_running,
)
from control_api.commands.local.engine_taking import (
    LOADS,
    Done,
    refuse_dead,
    refuse_fixed,
    refuse_pinned,
    taken,
    tell,
)
from control_api.commands.local.settings import add_config_flag, load_settings
from control_api.commands.output import Out
from control_api.places import absolute

if TYPE_CHECKING:
    from daemon.engines.install.shelf import Item, Shelf

FOUND_WORD: Final = "found"


# ------------------------------------------------------------ install, update


def install(args: Namespace, out: Out) -> int:
    from daemon.engines.install.versions import parse

    engine, version = _asked(parse, args.engine)
    version = refuse_pinned(args.config, engine, version)
    item = put(args.config, engine, version, out, source=args.source, better=True)
    return tell(out, taken(args, out, item))


def update(args: Namespace, out: Out) -> int:
    from daemon.engines.install.versions import ENGINES, parse

    if args.engine:
        engine, version = _asked(parse, args.engine)
        return tell(out, _updated(args, out, engine, version, args.source))
    shelf = shelf_of(args.config)
    names = [name for name in ENGINES if shelf.use(name).version]
    if not names:
        hint = "`ctl engine install NAME` puts one here; those found elsewhere are not ours."
        raise RefusedError("engine_missing", "modelport has installed no engine to update.", hint)
    return _update_all(args, out, names)


def _update_all(args: Namespace, out: Out, names: Sequence[str]) -> int:
    """One after the other: what cannot be had of one keeps none of the others from being updated,
    and what is not ours is left as it is."""
    shelf, settings = shelf_of(args.config), load_settings(args.config).settings
    done: list[Done] = []
    failed: list[dict[str, str]] = []
    for engine in names:
        item = shelf.item(engine, shelf.use(engine).version)
        if item is not None and item.how == "named":
            out.note(f"{engine} is your own, at {item.path}: it is left as it is.")
            continue
        if settings.engines.entry(engine).path is not None:
            out.note(f"{engine} is what `path` in [engines.{engine}] says: it is left as it is.")
            continue
        try:
            one = _updated(
                args, out, engine, None, args.source if engine == "llama-server" else None
            )
        except RefusedError as error:
            failed.append({"engine": engine, "message": error.message, "hint": error.hint})
            out.note(f"{engine}: {error.message}\n  {error.hint}".rstrip())
            continue
        done.append(one)
        if not out.json:
            tell(out, one)
    if out.json:
        out.value({"engines": [one.as_json() for one in done], "failed": failed})
    return 1 if failed else 0


def _updated(
    args: Namespace, out: Out, engine: str, version: str | None, source: str | None
) -> Done:
    version = refuse_pinned(args.config, engine, version)
    source = source or _source(shelf_of(args.config), engine)
    return taken(args, out, put(args.config, engine, version, out, source=source))


def _source(shelf: Shelf, engine: str) -> str | None:
    """An update comes from where the present one came from."""
    item = shelf.item(engine, shelf.use(engine).version)
    return {"brew": "brew", "compiled": "compile"}.get(item.how) if item is not None else None


# ------------------------------------------------------------ use, rollback


def use(args: Namespace, out: Out) -> int:
    from daemon.engines.install.shelf import FOUND
    from daemon.engines.install.versions import ENGINES, parse

    words = args.engine
    name, at, rest = words.partition("@")
    if args.place is not None or (at and rest == FOUND_WORD):
        if name not in ENGINES:
            _asked(parse, name)
        if args.place is None:
            refuse_fixed(args.config, name)
            switch_to(args.config, name, FOUND, 0, out)
            text = f"{name} is used as it is found on this machine."
            return tell(out, Done(text, None, used=True))
        item = _named(args.config, name, absolute(args.place))
    else:
        engine, version = _asked(parse, words)
        shelf = shelf_of(args.config)
        if version is None:
            there = ", ".join(one.version for one in shelf.items(engine)) or "none"
            what = f"Which version of {engine}? Installed: {there}."
            raise RefusedError("config_invalid", what, f"ctl engine use {engine}@VERSION")
        found = shelf.item(engine, version) or shelf.item(engine, f"b{version}")
        if found is None:
            what = f"{engine} {version} is not installed."
            raise RefusedError("engine_missing", what, f"ctl engine install {engine}@{version}")
        item = found
    refuse_pinned(args.config, item.engine, item.version)
    refuse_dead(args.config, item, out)
    before = current(args.config, item.engine)
    switch_to(args.config, item.engine, item.version, LOADS if before is not None else 0, out)
    text = f"{item.engine} {item.version} is used from the next start of a model on."
    return tell(out, Done(text, item, used=True))


def _named(config: str | None, engine: str, path: Path) -> Item:
    """A program of somebody else's, put on the shelf by its path."""
    from control_api.commands.local.engine import registry_of
    from daemon.engines.install.shelf import Item

    installed = guarded(lambda: registry_of(config).at(engine, {"path": str(path)}))
    mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    number = installed.version.split(" ")[0] or "unknown"
    shelf = shelf_of(config)
    version = f"{number}-at-{mark}"
    build = next(iter(installed.accelerators), "cpu")
    item = Item(engine, version, shelf.place(engine, version), path, "named", build)
    return guarded(lambda: shelf.finish(item))


def rollback(args: Namespace, out: Out) -> int:
    from daemon.engines.install.shelf import FOUND, back
    from daemon.engines.install.versions import parse

    engine, _ = _asked(parse, args.engine)
    refuse_fixed(args.config, engine)
    shelf = shelf_of(args.config)
    was = shelf.use(engine).version
    now = guarded(lambda: shelf.change(engine, lambda use: back(use, shelf.there(engine))))
    if now is None:
        what = f"No version of {engine} was used before that is still here."
        raise RefusedError("engine_missing", what, "`ctl engine ls` shows what there is.")
    tell_running(args.config, out)
    there = f"{engine} {now.version}" if now.version != FOUND else f"{engine} as it is found"
    text = f"{there} is used again, instead of {was or 'the one found'}."
    return tell(out, Done(text, shelf.item(engine, now.version), used=True))


def _asked(parse: Callable[[str], tuple[str, str | None]], text: str) -> tuple[str, str | None]:
    return guarded(lambda: parse(text))


# ------------------------------------------------------------ what the command line says


def _source_flag(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="source", choices=("archive", "brew", "compile"),
        help="llama-server: an official release, Homebrew, or from source",
    )  # fmt: skip


def _proof_flags(parser: ArgumentParser) -> None:
    add_config_flag(parser)
    _source_flag(parser)
    parser.add_argument("--no-proof", action="store_true", help="do not try it on the side first")


def _install_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("engine", metavar="NAME[@VERSION]", help="the engine; newest by default")
    _proof_flags(parser)
    parser.add_argument("--no-use", action="store_true", help="put it there and use the old one")


def _update_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("engine", metavar="NAME[@VERSION]", nargs="?", help="one of them alone")
    _proof_flags(parser)
    parser.set_defaults(no_use=False)


def _use_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("engine", metavar="NAME@VERSION", help="`NAME@found`: as it is found")
    parser.add_argument("place", metavar="PATH", nargs="?", help="a program of somebody else's")
    add_config_flag(parser)


def _rollback_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("engine", metavar="NAME", help="the engine")
    add_config_flag(parser)


NAMES: Final = "llama-server, xllamacpp, mlx-lm, vllm-mlx, vllm"

COMMANDS: Final = {
    "install": Command(
        summary="install an engine, pinned, beside others of its versions",
        text=f"NAME is one of {NAMES}.\n"
        "Each version gets a folder of its own below the state directory, by hash, without root.\n"
        "llama-server comes as the official archive for the GPU that is there, verified; else by\n"
        "Homebrew; else compiled. It is tried on the side with a small model before it is used,\n"
        "and taken back by itself if models that worked before do not load with it.\n"
        f"{RELEASES_ENV} names a mirror of the list of releases.",
        examples=(
            ("ctl engine install llama-server", "the newest, for this machine's GPU"),
            ("ctl engine install mlx-lm@0.32.2", "just this version"),
            ("ctl engine install llama-server --from compile", "from source"),
        ),
        run=install,
        arguments=_install_arguments,
    ),
    "update": Command(
        summary="install the newest version, prove it, use it",
        text="Without a name: every engine that modelport has installed and uses.",
        examples=(("ctl engine update", ""), ("ctl engine update llama-server", "")),
        run=update,
        arguments=_update_arguments,
    ),
    "use": Command(
        summary="use another version from the next start of a model on",
        examples=(
            ("ctl engine use llama-server@b9000", "an installed version"),
            ("ctl engine use llama-server@found", "what is found on the machine, not ours"),
            ("ctl engine use llama-server ~/build/bin/llama-server", "your own"),
        ),
        run=use,
        arguments=_use_arguments,
    ),
    "rollback": Command(
        summary="use again what was used before",
        examples=(("ctl engine rollback llama-server", ""),),
        run=rollback,
        arguments=_rollback_arguments,
    ),
}  # fmt: skip
