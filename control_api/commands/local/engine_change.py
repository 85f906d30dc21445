"""``engine install``, ``update``, ``use`` and ``rollback``. What runs is never touched: the daemon
takes another version at the next start of a model."""

from __future__ import annotations

import hashlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.client import Client, RefusedError, UnreachableError
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
from control_api.commands.local.settings import add_config_flag, config_file, load_settings
from control_api.commands.output import Out
from control_api.commands.progress import Steps

if TYPE_CHECKING:
    from daemon.engines.base import Installed
    from daemon.engines.install.shelf import Item, Shelf

LOADS: Final = 8  # that a new version has to do well before it is trusted
FOUND_WORD: Final = "found"


# ------------------------------------------------------------ install, update


def install(args: Namespace, out: Out) -> int:
    from daemon.engines.install.versions import parse

    engine, version = _asked(parse, args.engine)
    version = _refuse_pinned(args.config, engine, version)
    item = put(args.config, engine, version, out, source=args.source)
    return _take(args, out, item)


def update(args: Namespace, out: Out) -> int:
    from daemon.engines.install.versions import ENGINES, parse

    shelf = shelf_of(args.config)
    if args.engine:
        engine, version = _asked(parse, args.engine)
        names = [(engine, version)]
    else:
        names = [(name, None) for name in ENGINES if shelf.use(name).version]
    if not names:
        hint = "`ctl engine install NAME` puts one here; those found elsewhere are not ours."
        raise RefusedError("engine_missing", "modelport has installed no engine to update.", hint)
    code = 0
    for engine, version in names:
        version = _refuse_pinned(args.config, engine, version)  # noqa: PLW2901
        source = args.source or _source(shelf, engine)
        item = put(args.config, engine, version, out, source=source)
        code = max(code, _take(args, out, item))
    return code


def _source(shelf: Shelf, engine: str) -> str | None:
    """An update comes from where the present one came from."""
    item = shelf.item(engine, shelf.use(engine).version)
    return {"brew": "brew", "compiled": "compile"}.get(item.how) if item is not None else None


def _take(args: Namespace, out: Out, item: Item) -> int:
    """Prove it, and use it if it is no worse than the one in use."""
    from daemon.engines.install.shelf import FOUND

    shelf = shelf_of(args.config)
    name = f"{item.engine} {item.version}"
    if shelf.use(item.engine).version == item.version:
        return _done(out, f"{name} is installed and in use.", item, used=True)
    if args.no_use:
        text = f"{name} is installed. `ctl engine use {item.engine}@{item.version}` uses it."
        return _done(out, text, item, used=False)
    taken = shelf.use(item.engine).taken_back
    if taken is not None and taken.version == item.version:
        what = f"{name} was taken back: {taken.model} did not load with it ({taken.why})."
        hint = f"`ctl engine use {item.engine}@{item.version}` uses it all the same."
        raise RefusedError("engine_broken", what, hint, {"engine": item.engine, "why": taken.why})
    before = current(args.config, item.engine)
    if not args.no_proof:
        item, broken = proven(args.config, item, before, out)
        if broken:
            hint = f"`ctl engine use {item.engine}@{item.version}` uses it all the same."
            what = f"{name} is installed, but not used: on the side, {broken}"
            raise RefusedError("engine_broken", what, hint, {"engine": item.engine, "why": broken})
    known = before is not None or shelf.use(item.engine).version != FOUND
    switch_to(args.config, item.engine, item.version, LOADS if known else 0, out)
    return _done(out, f"{name} is used from the next start of a model on.", item, used=True)


def proven(config: str | None, item: Item, before: Installed | None, out: Out) -> tuple[Item, str]:
    """The item with what its proof came to, and what is broken with it that is not with the one in
    use."""
    from control_api.commands.local import trial

    model = trial.small_model(config, item.engine)
    if model is None:
        out.note(
            f"{item.engine} {item.version} is not proven: no small model for it is on this disk"
            " (`ctl pull qwen3-0.6b`). Its first loads will tell."
        )
        return item, ""
    with Steps(out) as steps:

        def tell(step: str, text: str, fraction: float | None) -> None:
            steps.show({"step": step, "text": text, "fraction": fraction})

        found = trial.prove(item.engine, item.path, model, config, tell)
        broken = dict(found.broken)
        if broken and (place := _path_of(before)) is not None:
            steps.show({"step": "prove", "text": "the one in use, for comparison"})
            usual = trial.prove(item.engine, place, model, config, tell, tuple(broken))
            broken = {step: why for step, why in broken.items() if step not in usual.broken}
    if not found.made:
        out.note(f"{item.engine} {item.version} is not proven: {found.text}")
        return item, ""
    text = "; ".join(f"{step}: {why}" for step, why in broken.items())
    kept = f"broken: {text}" if broken else f"works: {found.text}"
    return guarded(lambda: shelf_of(config).proved(item, kept)), text


def _path_of(installed: Installed | None) -> Path | None:
    """What `path` would name for the engine in use."""
    return Path(installed.program[0]) if installed is not None else None


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
            switch_to(args.config, name, FOUND, 0, out)
            return _done(out, f"{name} is used as it is found on this machine.", None, used=True)
        item = _named(args.config, name, Path(args.place).expanduser().absolute())
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
    _refuse_pinned(args.config, item.engine, item.version)
    before = current(args.config, item.engine)
    switch_to(args.config, item.engine, item.version, LOADS if before is not None else 0, out)
    text = f"{item.engine} {item.version} is used from the next start of a model on."
    return _done(out, text, item, used=True)


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
    _refuse_pinned(args.config, engine, None)
    shelf = shelf_of(args.config)
    was = shelf.use(engine).version
    now = guarded(lambda: shelf.change(engine, back))
    if now is None:
        what = f"No version of {engine} was used before."
        raise RefusedError("engine_missing", what, "`ctl engine ls` shows what there is.")
    tell_running(args.config, out)
    there = f"{engine} {now.version}" if now.version != FOUND else f"{engine} as it is found"
    text = f"{there} is used again, instead of {was or 'the one found'}."
    return _done(out, text, shelf.item(engine, now.version), used=True)


def _done(out: Out, text: str, item: Item | None, *, used: bool) -> int:
    if out.json:
        told: dict[str, Any] = {"used": used, "text": text}
        if item is not None:
            told |= {
                "engine": item.engine, "version": item.version, "path": str(item.path),
                "how": item.how, "build": item.build, "proven": item.proven,
            }  # fmt: skip
        out.value(told)
        return 0
    out.line(text)
    if item is not None and item.proven:
        out.line(f"On the side it {item.proven}.")
    if used and item is not None and _runs(item.engine):
        out.line("What runs now goes on as it is.")
    return 0


def _runs(engine: str) -> bool:
    """Whether a backend of that engine runs."""
    try:
        backends = Client().get("/backends")["backends"]
    except (UnreachableError, RefusedError):
        return False
    return any(backend.get("engine") == engine for backend in backends)


def _refuse_pinned(config: str | None, engine: str, version: str | None) -> str | None:
    """The configuration wins: what it says is not to be overruled in silence. The version that it
    insists on, where none is named."""
    entry = load_settings(config).settings.engines.entry(engine)
    place = config_file(config)
    if entry.path is not None:
        what = f"[engines.{engine}] path = {entry.path!r} in {place} is what is used."
        raise RefusedError("config_invalid", what, "Take it out of the file first: ctl config edit")
    if entry.version and version and entry.version.lstrip("b") != version.lstrip("b"):
        what = f"[engines.{engine}] insists on version {entry.version}, in {place}."
        raise RefusedError("config_invalid", what, "Change it there first: ctl config edit")
    return version or entry.version


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
