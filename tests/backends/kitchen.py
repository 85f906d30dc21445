"""Models prepared from real settings, files and engines found on a PATH of the test's own."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.backends.learned import Learned
from daemon.backends.prepare import Located, Prepared, Preparer
from daemon.backends.stock import Stock
from daemon.backends.terms import Timing
from daemon.config.catalog import Catalog
from daemon.config.model import Model
from daemon.config.paths import Paths
from daemon.config.presets import load_presets
from daemon.config.settings import Settings
from daemon.core.problems import Problem
from daemon.engines.environment import Platform
from daemon.engines.registry import Registry
from daemon.reading import Reader
from tests.fakes.start import argv as fake_argv

PLATFORM = Platform("Linux", "x86_64")
HELP = """\
-h,    --help, --usage                  print usage and exit
-m,    --model FNAME                    model path
-a,    --alias STRING                   model name
-c,    --ctx-size N                     size of the prompt context
-np,   --parallel N                     number of server slots
-kvu,  --kv-unified                     one buffer
-no-kvu, --no-kv-unified                buffers of their own
-b,    --batch-size N                   logical batch
-ub,   --ubatch-size N                  physical batch
-ctk,  --cache-type-k TYPE              type of K
-ctv,  --cache-type-v TYPE              type of V
-cram, --cache-ram N                    prompt cache
-ts,   --tensor-split N0,N1            shares of the GPUs
-ctxcp, --ctx-checkpoints N             checkpoints
-fit,  --fit [on|off]                   fit
-lv,   --verbosity N                    log
-ngl,  --gpu-layers N                   layers on the GPU
-mm,   --mmproj FILE                    projector
-md,   --model-draft FILE               draft
--swa-full                              full windows
--embeddings                            embeddings
--reranking                             ranking
--jinja                                 templates
--host HOST                             where to listen
--port PORT                             port to listen
--api-key-file FNAME                    keys
--list-devices                          devices
"""
TIMING = Timing(
    start_stall=10.0,
    ready_poll=0.01,
    health_timeout=1.0,
    probe_timeout=10.0,
    stop_grace=10.0,
    kill_grace=10.0,
    keeper_start=20.0,
    keeper_grace=60.0,
    keeper_connect=20.0,
    keeper_lost=2.0,
)


@dataclass
class Kitchen:
    """See the module. ``devices``: what llama-server's ``--list-devices`` names."""

    folder: Path
    devices: str = ""
    pools: Sequence[str] = ("ram",)
    learned: Learned | None = None
    room: Mapping[str, int] | None = None
    totals: Mapping[str, int] | None = None
    paths: Paths = field(init=False)

    def __post_init__(self) -> None:
        named = {f"MODELPORT_{n}_DIR": str(self.folder / n[0]) for n in ("STATE", "LOG", "CACHE")}
        named["MODELPORT_RUNTIME_DIR"] = str(self.folder / "r")
        self.paths = Paths.find(named, config=self.folder / "config.toml")
        for place in (self.paths.state_dir, self.paths.backends_dir, self.paths.model_logs_dir):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / "bin").mkdir(exist_ok=True)

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "HOME": str(self.folder)}

    def install(self, name: str = "llama-server", *, sockets: bool = False) -> Path:
        """A llama-server that says what it is; started with a port (or, if it says that it can,
        with a socket) it is the stand-in."""
        path = self.folder / "bin" / name
        said = "--host HOST  IP addresses, comma-separated, or UNIX socket paths"
        (self.folder / "help.txt").write_text(HELP + said * sockets + "\n")
        words = " ".join(f"'{word}'" for word in fake_argv())
        path.write_text(
            f"#!/bin/sh\ncase $1 in\n--help) cat '{self.folder}/help.txt'; exit;;\n"
            "--version) echo 'version: 8123 (abc)'; exit;;\n"
            f"--list-devices) printf 'Available devices:\\n{self.devices}'; exit;;\nesac\n"
            f'exec {words} "$@"\n'
        )
        path.chmod(0o755)
        return path

    def settings(self, config: str | Mapping[str, Any]) -> Settings:
        return Settings.from_layers(tomllib.loads(config) if isinstance(config, str) else config)

    def preparer(self, settings: Settings) -> Preparer:
        registry = Registry(settings, self.environ, None, PLATFORM)
        names = {pool: f"GPU-{pool}" for pool in self.pools if pool.startswith("gpu")}
        more: dict[str, Any] = {"learned": self.learned, "room": self.room, "devices": names}
        more["totals"] = self.totals
        return Preparer(registry, settings, self.pools, self.environ, self.locate, **more)

    def locate(self, model: Model) -> Located:
        """As the daemon does; what is beside the weights is found there."""
        return Reader(self.paths, self.environ, {}, "foreground").files_of(model)

    def prepare(self, config: str | Mapping[str, Any]) -> dict[str, Prepared]:
        """Every model of these settings."""
        settings = self.settings(config)
        preparer = self.preparer(settings)
        models = Catalog.build(settings, load_presets()).models
        return {name: preparer.prepare(model) for name, model in models.items()}

    def one(self, config: str | Mapping[str, Any]) -> Prepared:
        (item,) = self.prepare(config).values()
        return item

    def sound(self, config: str | Mapping[str, Any]) -> Prepared:
        """The one model, which has no problem."""
        item = self.one(config)
        assert item.problem is None, item.problem
        return item

    def broken(self, config: str | Mapping[str, Any]) -> Problem:
        """Why the one model cannot be served."""
        item = self.one(config)
        assert item.problem is not None
        assert item.spec.variants == ()
        assert (item.best, item.engine) == (None, None)
        return item.problem

    def stock(self, config: str | Mapping[str, Any], *, service: bool = False) -> Stock:
        settings = self.settings(config)
        preparer = self.preparer(settings)
        catalog = Catalog.build(settings, load_presets())
        return Stock(
            catalog=catalog,
            prepared={name: preparer.prepare(model) for name, model in catalog.models.items()},
            preparer=preparer,
            paths=self.paths,
            timing=TIMING,
            mode="service" if service else "foreground",
            log_max_bytes=1 << 20,
            log_keep=2,
            created=1234,
        )
