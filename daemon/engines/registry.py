"""Which engines there are, and which one runs a model that names none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from daemon.config.entry import CommandEntry
from daemon.config.settings import Settings
from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.base import Engine, Installed
from daemon.engines.binaries import INSTALL, UPDATE, Facts, Inspector
from daemon.engines.command import Command, Template
from daemon.engines.environment import Platform
from daemon.engines.install.architectures import files_of, knows
from daemon.engines.install.shelf import Shelf
from daemon.engines.install.versions import FAMILY, older
from daemon.engines.llama_server import LlamaServer
from daemon.engines.mlx_lm import MlxLm
from daemon.engines.vllm import Vllm
from daemon.engines.vllm_mlx import VllmMlx
from daemon.engines.xllamacpp import Xllamacpp

# Engines by the form of the weights, best first. MLX's own quantisation runs nowhere else.
_GGUF: Final = ("llama-server", "xllamacpp")
_MLX: Final = ("mlx-lm", "vllm-mlx")
_TEXT: Final = frozenset({"chat", "completion"})


def candidates(form: str, platform: Platform, kind: str = "chat") -> tuple[str, ...]:
    """Engines that can run weights of this form here, best first; the first is what to install
    where none is there... except for GGUF, whose second is one pip install away.

    ``form``: ``gguf``, ``mlx`` (safetensors in MLX's own quantisation) or ``safetensors``.
    """
    if form == "gguf":
        return _GGUF
    if form == "mlx":
        return _MLX if kind in _TEXT else ()
    if form == "safetensors":
        mlx = _MLX if kind in _TEXT else ()
        return (*mlx, "vllm") if platform.apple_silicon else ("vllm", *mlx[:1])
    return ()


def choose(
    form: str, platform: Platform, found: Callable[[str], bool], kind: str = "chat"
) -> str | Problem:
    """The engine for a model that names none, or why there is none, with what to do."""
    able = candidates(form, platform, kind)
    if not able:
        what = f"No engine runs {form} weights of kind {kind!r}."
        return Problem(Code.ENGINE_MISSING, what, "Use a GGUF of the model.")
    for name in able:
        if found(name):
            return name
    easiest = "xllamacpp" if form == "gguf" else able[0]
    what = f"No engine for {form} weights is installed: {' or '.join(able)} would do."
    return Problem(Code.ENGINE_MISSING, what, f"Install one: {INSTALL[easiest]}")


class Registry:
    """The engines under these settings. ``cache``: where what programs said is kept. ``shelf``:
    what we have installed ourselves.

    Finding an engine may run its program: call it off the event loop.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        cache: Path | None = None,
        platform: Platform | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._shelf = shelf
        self.platform = platform or Platform.here()
        inspector = self._inspector = Inspector(cache, settings.timing.engine_probe)
        built: tuple[Engine, ...] = tuple(
            kind(inspector, environ, self.platform)
            for kind in (LlamaServer, Xllamacpp, MlxLm, VllmMlx, Vllm)
        )
        self._engines: dict[str, Engine] = {engine.name: engine for engine in built}
        for name, entry in settings.engines.command.items():
            command = Command(template(name, entry), environ)
            self._engines[command.name] = command

    def names(self) -> tuple[str, ...]:
        """Every engine that can be named, templates as ``command.NAME``."""
        return tuple(self._engines)

    def get(self, name: str) -> Engine:
        """The engine of that name; a template also without ``command.``.

        Raises ProblemError (CONFIG_INVALID) for a name that is none.
        """
        engine = self._engines.get(name) or self._engines.get(f"command.{name}")
        if engine is None:
            hint = f"There are: {', '.join(self.names())}."
            raise ProblemError(Problem(Code.CONFIG_INVALID, f"No engine is named {name!r}.", hint))
        return engine

    def find(self, name: str) -> Installed:
        """The engine on this machine: `path` of the settings, else the installation of ours that is
        in use (or of the `version` insisted on), else what the adapter finds.

        Raises ProblemError: CONFIG_INVALID for an unknown name; ENGINE_MISSING with the line that
        installs it, where it is not there or not in the version that the settings insist on.
        """
        engine = self.get(name)
        entry = self._settings.engines.entry(name)
        place: dict[str, object] = {"path": entry.path}
        if entry.path is None and self._shelf is not None:
            item = self._shelf.chosen(name, entry.version)
            if item is not None:
                place = {"path": str(item.path), "stamp": str(item.stamp)}
        installed = engine.find(place, self._environ)
        wanted = entry.version
        if wanted and installed.version.removeprefix("b").split(" ")[0] != wanted.removeprefix("b"):
            what = f"{name} is {installed.version or 'of an unknown version'} here, not {wanted}."
            hint = f"`ctl engine install {name}@{wanted}`, or change `version` in [engines.{name}]."
            raise ProblemError(Problem(Code.ENGINE_MISSING, what, hint))
        return installed

    def at(self, name: str, place: Mapping[str, object]) -> Installed:
        """The same engine at another place than the one in use: ``path``, and ``stamp``, a file
        that changes whenever it does. Raises ProblemError."""
        return self.get(name).find(place, self._environ)

    def beside(self, name: str) -> tuple[Installed, ...]:
        """The versions that are here beside the one in use: what was started with one of them may
        run still."""
        shelf = self._shelf
        if shelf is None or self._settings.engines.entry(name).path is not None:
            return ()
        places: list[dict[str, object]] = [
            {"path": str(item.path), "stamp": str(item.stamp)} for item in shelf.items(name)
        ]
        if not places:
            return ()
        found = []
        for place in (*places, {}):  # and that which is found without us
            with suppress(ProblemError):
                found.append(self.at(name, place))
        return tuple(found)

    def found(self, name: str) -> bool:
        """Whether :meth:`find` finds it."""
        try:
            self.find(name)
        except ProblemError:
            return False
        return True

    def choose(
        self, form: str, kind: str = "chat", fits: Callable[[Installed], bool] = lambda _: True
    ) -> str | Problem:
        """See :func:`choose`, for this machine. ``fits``: one that is there and fits is taken
        before those that are only there."""

        def fitting(name: str) -> bool:
            return self.found(name) and fits(self.find(name))

        best = choose(form, self.platform, fitting, kind)
        return best if isinstance(best, str) else choose(form, self.platform, self.found, kind)

    def unfit(
        self, installed: Installed, min_engine: Mapping[str, str], architecture: str
    ) -> Problem | None:
        """Why this engine certainly cannot run a model, with the command that mends it; None: it
        can, as far as is known. ``min_engine``: by family, as presets have it; ``architecture``:
        as the model's files name it, "" for unknown."""
        name, version = installed.engine, installed.version
        wanted = min_engine.get(FAMILY.get(name, name))
        if wanted is not None and older(name, version, wanted):
            what = f"{name} {version} is too old for it: {wanted} is the oldest that runs it."
            return Problem(Code.ENGINE_MISSING, what, UPDATE.format(name))
        if architecture and self._knows(installed, architecture) is False:
            what = f"{name} {version} does not know its architecture ({architecture})."
            return Problem(Code.ENGINE_MISSING, what, UPDATE.format(name))
        return None

    def _knows(self, installed: Installed, architecture: str) -> bool | None:
        """Asked once per version of a file."""
        name = installed.engine
        answers = []
        for file in files_of(name, installed.program):

            def ask(file: Path = file) -> Facts | None:
                with suppress(OSError):
                    told = knows(name, file, architecture)
                    return Facts({True: "yes", False: "no", None: "unknown"}[told])
                return None

            with suppress(OSError):
                facts = self._inspector.facts(file, ask, of=f"{architecture} in ")
                answers.append(facts.version if facts is not None else "unknown")
        return True if "yes" in answers else False if "no" in answers else None


def template(name: str, entry: CommandEntry) -> Template:
    """A command engine's settings as a checked template. Raises ProblemError (CONFIG_INVALID)."""
    return Template(
        name=name,
        argv=tuple(entry.argv),
        env=dict(entry.env),
        ready=entry.ready,
        dialects=tuple(entry.dialects),
        memory=entry.footprint,
        cwd=entry.cwd,
        elsewhere=entry.elsewhere,
    )
