"""Whether an installed version of an engine is taken into use: it runs, it stands its proof on the
side, and the configuration does not say otherwise."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.client import Client, RefusedError, UnreachableError
from control_api.commands.local.engine_put import current, guarded, shelf_of, switch_to
from control_api.commands.local.settings import config_file, load_settings
from control_api.commands.output import Out
from control_api.commands.progress import Notice, Steps

if TYPE_CHECKING:
    from daemon.engines.base import Installed
    from daemon.engines.install.shelf import Item

LOADS: Final = 8  # that a new version has to do well before it is trusted


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it. ``item``: the version that it is about; None: the one found here."""

    text: str
    item: Item | None
    used: bool

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"used": self.used, "text": self.text}
        if (item := self.item) is not None:
            told |= {
                "engine": item.engine, "version": item.version, "path": str(item.path),
                "how": item.how, "build": item.build, "proven": item.proven,
            }  # fmt: skip
        return told


def tell(out: Out, done: Done) -> int:
    """Say it; the exit code."""
    if out.json:
        out.value(done.as_json())
        return 0
    out.line(done.text)
    item = done.item
    if item is not None and item.proven:
        out.line(f"On the side it {item.proven}.")
    if done.used and item is not None and _runs(item.engine):
        out.line("What runs now goes on as it is.")
    return 0


def _runs(engine: str) -> bool:
    """Whether a backend of that engine runs."""
    try:
        backends = Client().get("/backends")["backends"]
    except (UnreachableError, RefusedError):
        return False
    return any(backend.get("engine") == engine for backend in backends)


def taken(args: Namespace, out: Out, item: Item) -> Done:
    """Prove it, and use it if it is no worse than the one in use. Raises RefusedError."""
    from daemon.engines.install.shelf import FOUND

    shelf = shelf_of(args.config)
    name = f"{item.engine} {item.version}"
    if shelf.use(item.engine).version == item.version:
        return Done(f"{name} is installed and in use.", item, used=True)
    if args.no_use:
        text = f"{name} is installed. `ctl engine use {item.engine}@{item.version}` uses it."
        return Done(text, item, used=False)
    refuse_dead(args.config, item, out)
    gone = shelf.use(item.engine).taken_back
    if gone is not None and gone.version == item.version:
        what = f"{item.engine} {gone.text}."
        hint = f"`ctl engine use {item.engine}@{item.version}` uses it all the same."
        raise RefusedError("engine_broken", what, hint, {"engine": item.engine, "why": gone.why})
    before = current(args.config, item.engine)
    if not args.no_proof:
        item, broken = proven(args.config, item, before, out)
        if broken:
            hint = f"`ctl engine use {item.engine}@{item.version}` uses it all the same."
            what = f"{name} is installed, but not used: on the side, {broken}"
            raise RefusedError("engine_broken", what, hint, {"engine": item.engine, "why": broken})
    known = before is not None or shelf.use(item.engine).version != FOUND
    switch_to(args.config, item.engine, item.version, LOADS if known else 0, out)
    return Done(f"{name} is used from the next start of a model on.", item, used=True)


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

        def show(step: str, text: str, fraction: float | None) -> None:
            steps.show({"step": step, "text": text, "fraction": fraction})

        found = trial.prove(item.engine, item.path, model, config, show)
        broken = dict(found.broken)
        if broken and (place := _path_of(before)) is not None:
            steps.show({"step": "prove", "text": "the one in use, for comparison"})
            usual = trial.prove(item.engine, place, model, config, show, tuple(broken))
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


def refuse_pinned(config: str | None, engine: str, version: str | None) -> str | None:
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


def refuse_fixed(config: str | None, engine: str) -> None:
    """As :func:`refuse_pinned`, for what names no version: then any that is insisted on wins."""
    if (version := refuse_pinned(config, engine, None)) is not None:
        what = f"[engines.{engine}] insists on version {version}, in {config_file(config)}."
        raise RefusedError("config_invalid", what, "Change it there first: ctl config edit")


def refuse_dead(config: str | None, item: Item, out: Out) -> None:
    """What does not even say its version is not used."""
    from control_api.commands.local.engine import registry_of
    from daemon.core.problems import ProblemError
    from daemon.engines.install.versions import bring

    try:
        place = {"path": str(item.path), "stamp": str(item.stamp)}
        with Notice(out).lasting(f"asking {item.engine} {item.version}"):
            registry_of(config).at(item.engine, place)
    except ProblemError as error:
        what = f"{item.engine} {item.version} is installed, but does not run:"
        hint = "`ctl engine ls` shows what else is here."
        if not item.whole:
            hint = f"Install it again: {bring(item.engine, item.version)}"
        raise RefusedError("engine_broken", f"{what} {error.problem.message}", hint) from None
