"""Which files of the downloads belong to which model, and which of them are in use: for the
commands that remove some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control_api.client import Client, RefusedError, UnreachableError
from control_api.commands.local.settings import find_paths, load_settings
from control_api.commands.output import Out, size

if TYPE_CHECKING:
    from daemon.config.catalog import Catalog
    from daemon.config.model import Model
    from daemon.config.paths import Paths
    from daemon.downloads.pruning import Use


@dataclass(frozen=True, slots=True)
class Now:
    """What the daemon does at this moment; nothing, where none runs."""

    loaded: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()
    pulling: frozenset[str] = frozenset()  # hf:OWNER/REPO[:QUANT]

    @classmethod
    def ask(cls) -> Now:
        """Raises ``RefusedError``, ``UnreachableError`` only where a daemon is there but hangs."""
        client = Client()
        try:
            running: dict[str, Any] = client.get("/backends")
        except UnreachableError:
            return cls()
        models, pulls = client.get("/models")["models"], client.get("/pulls")["pulls"]
        return cls(
            frozenset(str(one["model"]) for one in running["backends"]),
            frozenset(str(one["name"]) for one in models if one["pinned"]),
            frozenset(str(one["source"]) for one in pulls),
        )


class Shelf:
    """The configuration's models and the cache that they lie in."""

    def __init__(self, config: str | None) -> None:
        """Raises ``ConfigError``."""
        from daemon.config.catalog import Catalog
        from daemon.config.presets import load_presets
        from daemon.downloads.locate import default_cache

        self.paths: Paths = find_paths(config)
        settings = load_settings(config).settings
        self.catalog: Catalog = Catalog.build(settings, load_presets())
        self.cache = default_cache()
        self.now = Now.ask()

    def model(self, name: str) -> Model:
        """What is meant by a name: an entry, a preset, or hf:OWNER/REPO[:QUANT]. Raises
        ``RefusedError``, ``ProblemError``."""
        from daemon.downloads.wanted import HUB, of_hub

        if name.startswith(HUB):
            return of_hub(name)
        found = self.catalog.meant(name)
        if found is None:
            near = self.catalog.nearest(name)
            hint = f"Did you mean {', '.join(near)}?" if near else "`ctl ls` shows all."
            raise RefusedError("model_not_found", f"There is no model {name[:200]!r}.", hint)
        return found

    def files(self, model: Model) -> set[Path]:
        """Those of the cache that a model uses."""
        from daemon.downloads.wanted import files_of

        return files_of(model, self.cache)

    def uses(self, but: str = "") -> dict[Path, tuple[Use, ...]]:
        """Who needs which file: all configured models, and presets that are loaded. ``but``: one
        that does not count."""
        from daemon.downloads.pruning import Use

        found: dict[Path, tuple[Use, ...]] = {}
        for model in (*self.catalog.models.values(), *self.catalog.presets.values()):
            reasons = [
                why
                for why, names in (("loaded", self.now.loaded), ("pinned", self.now.pinned))
                if model.name in names
            ]
            reasons += ["pinned"] if model.pin else []
            reasons += ["configured"] if model.listed and model.name != but else []
            for path in self.files(model) if reasons else ():
                uses = (Use(model.name, why) for why in reasons)
                found[path] = (*found.get(path, ()), *uses)
        return found

    def parts(self, model: Model) -> set[Path]:
        """What is left of downloads of its repository, where no other model has that one: whose
        they are cannot be seen."""
        from daemon.downloads.cache import partials

        others = {one.repo for one in self.catalog.models.values() if one.name != model.name}
        if model.repo is None or model.repo in others:
            return set()
        return {one.file for one in partials(model.repo, self.cache)}

    def pulling(self) -> frozenset[str]:
        """Repositories from which something comes, or will when the daemon is back."""
        from daemon.downloads.unfinished import FILE, Unfinished
        from daemon.downloads.wanted import HUB

        names = set(self.now.pulling)
        for name in Unfinished(self.paths.state_dir / FILE).names():
            model = self.catalog.meant(name)
            names.add(name if model is None else f"{HUB}{model.hf}")
        return frozenset(one.removeprefix(HUB).partition(":")[0] for one in names)


def remove_weights(name: str, *, yes: bool, config: str | None, out: Out) -> Removed:
    """Look, ask, and give what is to go. Nothing has been removed yet. Raises ``RefusedError``."""
    from control_api.commands.asking import agreed, need_somebody
    from daemon.downloads.cache import with_projectors

    shelf = Shelf(config)
    model = shelf.model(name)
    if model.path is not None:
        raise RefusedError(
            "invalid_request",
            f"The weights of {model.name} are a file of your own: {model.path}.",
            f"modelport removes only what it can bring again. `ctl rm {model.name}` removes the "
            "entry; the file is yours to remove.",
        )
    files, uses = shelf.files(model), shelf.uses(but=model.name)
    _refuse_in_use(model.name, files, uses, shelf, model.repo or "")
    own = {path for path in files if path not in uses}
    others = {use.model for path in files - own for use in uses[path]}
    gone = sorted({*with_projectors(own, uses), *shelf.parts(model)})
    listed = model.name in shelf.catalog.models
    if not gone and not listed:
        _nothing(model.name, others)
    removed = Removed(model.name, tuple(gone), tuple(sorted(others)), listed, shelf.cache)
    if not out.json:
        removed.show(out)
    if not yes:
        need_somebody(f"{len(gone)} files would be removed", "--yes removes them.", out)
        if not agreed("Remove this?", out):
            raise RefusedError("cancelled", "Nothing was removed.")
    return removed


def _refuse_in_use(
    name: str,
    files: Iterable[Path],
    uses: Mapping[Path, tuple[Use, ...]],
    shelf: Shelf,
    repo: str,
) -> None:
    loaded = {use.model for path in files for use in uses.get(path, ()) if use.why == "loaded"}
    if loaded or name in shelf.now.loaded:
        who = ", ".join(sorted(loaded | ({name} & shelf.now.loaded)))
        raise RefusedError(
            "invalid_request", f"{who} is loaded.", f"First: ctl unload {who.partition(',')[0]}"
        )
    if repo in shelf.pulling():
        text = f"{name} is being pulled."
        raise RefusedError("invalid_request", text, f"First: ctl pull {name} --cancel")


def _nothing(name: str, others: set[str]) -> None:
    if others:
        text = f"All files of {name} are used by {', '.join(sorted(others))}, too."
        raise RefusedError("invalid_request", text, "They stay.")
    raise RefusedError("not_pulled", f"The weights of {name} are not on this machine.")


@dataclass(frozen=True, slots=True)
class Removed:
    """What goes. ``others``: models that use some of the files, which stay. ``listed``: it has an
    entry in the configuration."""

    name: str
    files: tuple[Path, ...]
    others: tuple[str, ...]
    listed: bool
    cache: Path

    def show(self, out: Out) -> None:
        """What is about to happen."""
        for path in self.files:
            out.note(f"  {path.relative_to(self.cache)}  {size(path.stat().st_size)}")
        if self.others:
            out.note(f"  (files that {', '.join(self.others)} uses stay)")
        if not self.files:
            out.note(f"  No file goes: {self.name} has none here that is its own.")
        if self.listed:
            out.note(f"  [models.{self.name}] leaves the configuration")

    def do(self) -> int:
        """Remove the files; the bytes that were freed. Raises ``RefusedError``."""
        from daemon.downloads.cache import remove

        try:
            return remove(self.files, self.cache)
        except OSError as error:
            raise RefusedError(
                "internal_error", f"Not all of it could be removed: {error}."
            ) from None
