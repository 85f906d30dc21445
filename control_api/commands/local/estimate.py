"""``estimate``: the memory that a model will take, read from its files."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from control_api.client import RefusedError
from control_api.commands.command import Command
from control_api.commands.local.settings import add_config_flag, find_paths, load_settings
from control_api.commands.output import Out, size

if TYPE_CHECKING:
    from daemon.engines.pricing import Site
    from daemon.weights.facts import Weights
    from daemon.weights.footprint import Breakdown

CONTEXTS: Final = (8192, 32768, 65536, 131072)


def estimate(args: Namespace, out: Out) -> int:
    path = weights_path(args.model, args.config)
    weights = read_weights(path)
    contexts = [args.ctx] if args.ctx else _contexts(weights)
    site = site_of(args.model, args.config, weights)
    rows = [(ctx, footprint(weights, ctx, args.slots, site)) for ctx in contexts]
    if out.json:
        out.value(
            {
                "path": str(path),
                "architecture": weights.architecture,
                "quantisation": weights.quantisation,
                "context_max": weights.n_ctx_train,
                "slots": args.slots,
                "exact": weights.exact,
                "estimates": [
                    {"ctx": ctx, "total": parts.total, **asdict(parts)} for ctx, parts in rows
                ],
            }
        )
        return 0
    out.line(f"{path.name}: {summary(weights)}")
    table = [
        (str(ctx), size(p.total), size(p.weights), size(p.kv), size(p.compute), size(p.overhead))
        for ctx, p in rows
    ]
    out.table(("CONTEXT", "TOTAL", "WEIGHTS", "CACHE", "COMPUTE", "PROCESS"), table)
    if not weights.exact:
        out.line("! Its cache has a shape that is only approximated here.")
    return 0


def weights_path(model: str, config: str | None) -> Path:
    """A path as it is, else that of a model of the configuration. Raises ``RefusedError``."""
    path = Path(model).expanduser()
    if path.exists():
        return path.absolute()
    entry = load_settings(config).settings.models.get(model)
    if entry is None:
        hint = "Give a path, or the name of a model of the configuration."
        raise RefusedError("model_not_found", f"{model!r} is neither a path nor a model.", hint)
    if entry.path is None:
        hint = f"With a daemon, `ctl show {model}` tells its estimate."
        raise RefusedError("not_pulled", f"{model} has no path in the configuration.", hint)
    return Path(entry.path)


def read_weights(path: Path) -> Weights:
    """What the files say. Raises ``RefusedError`` for files that are no model."""
    from daemon.weights.describe import WeightsError, describe

    try:
        return describe(path)
    except WeightsError as error:
        raise RefusedError("invalid_request", str(error)) from error


def site_of(name: str, config: str | None, weights: Weights) -> Site:
    """The engine and the args that the model of this name, or the file, would be run with here."""
    from daemon.config.catalog import Catalog
    from daemon.config.mistakes import ConfigError
    from daemon.config.presets import load_presets
    from daemon.config.settings import Settings
    from daemon.core.problems import Problem, ProblemError
    from daemon.engines.pricing import Site
    from daemon.engines.registry import Registry

    try:
        settings = load_settings(config).settings
    except ConfigError:
        if not Path(name).expanduser().exists():
            raise
        settings = Settings()  # a file needs no configuration
    registry = Registry(settings, os.environ, find_paths(config).cache_dir / "engines.json")
    model = Catalog.build(settings, load_presets()).models.get(name)
    engine: str | Problem | None = model.engine if model is not None else None
    if engine is None:
        form = "gguf" if weights.format == "gguf" else "mlx"
        engine = registry.choose(form, weights.kind)
    if isinstance(engine, Problem):  # none is here: as the usual one would
        engine = "llama-server" if weights.format == "gguf" else "mlx-lm"
    try:
        installed = registry.find(engine)
        version, gpu = installed.version, bool(installed.accelerators)
    except ProblemError:
        version, gpu = "", False
    own = tuple(model.args_for(engine)) if model is not None else ()
    args = (*settings.engines.entry(engine).args, *own)
    kind = (model.kind if model is not None else None) or weights.kind
    apple = sys.platform == "darwin"
    apart = gpu and not apple and (model is None or model.pool != "ram")
    devices = ("gpu",) if apart else ()
    return Site(engine, version, kind, args, devices, unified_gpu=gpu and apple)


def footprint(weights: Weights, ctx: int, slots: int, site: Site) -> Breakdown:
    """The bytes with ``slots`` conversations of ``ctx`` tokens each, of all pools together."""
    from daemon.engines.base import Running
    from daemon.engines.pricing import price
    from daemon.weights.footprint import Breakdown

    try:
        parts = price(weights, Running("", ctx, slots), site)
    except ValueError as error:
        raise RefusedError("invalid_request", f"Its args cannot be run: {error}.") from error
    return sum(parts.values(), Breakdown(0, 0, 0, 0, 0))


def summary(weights: Weights) -> str:
    """The files in one line."""
    parts = [weights.architecture, weights.quantisation, size(weights.disk_bytes), weights.kind]
    if weights.n_ctx_train:
        parts.append(f"trained for {weights.n_ctx_train} tokens")
    return ", ".join(filter(None, parts))


def _contexts(weights: Weights) -> list[int]:
    most = weights.n_ctx_train or CONTEXTS[-1]
    return [ctx for ctx in CONTEXTS if ctx < most] + [min(most, CONTEXTS[-1])] * (
        most <= CONTEXTS[-1]
    )


def _arguments(parser: ArgumentParser) -> None:
    from control_api.commands.load import context_length

    parser.add_argument("model", metavar="MODEL|PATH", help="a configured model, or its files")
    parser.add_argument(
        "--ctx", type=context_length, metavar="N", help="context in tokens (or 32k)"
    )
    parser.add_argument(
        "--slots", type=int, default=1, choices=range(1, 257), metavar="N", help="requests at once"
    )
    add_config_flag(parser)


COMMANDS: Final = {
    "estimate": Command(
        summary="estimate the memory that a model takes, from its files",
        text="Nothing is started. Context and cache are per request that is served at once.",
        examples=(
            ("ctl estimate ~/models/qwen3-coder-Q4_K_M.gguf", "for several contexts"),
            ("ctl estimate gemma --ctx 64k --slots 2", ""),
        ),
        run=estimate,
        arguments=_arguments,
    ),
}
