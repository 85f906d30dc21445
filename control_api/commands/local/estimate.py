"""``estimate``: the memory that a model will take, and the largest context that fits here."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.client import RefusedError
from control_api.commands.command import Command
from control_api.commands.local.settings import add_config_flag
from control_api.commands.local.sizes import PUBLISHED, Budget, Here, amounts, source_of
from control_api.commands.output import Out, size
from control_api.places import absolute

if TYPE_CHECKING:
    from daemon.backends.sizing import Sized
    from daemon.weights.facts import Weights
    from daemon.weights.footprint import Breakdown

CONTEXTS: Final = (8192, 32768, 65536, 131072)

COLUMNS: Final = ("CONTEXT", "TOTAL", "WEIGHTS", "CACHE", "COMPUTE", "PROCESS", "OTHER")

Parts = dict[str, "Breakdown"]  # by pool


def estimate(args: Namespace, out: Out) -> int:
    here, sized = find(args.model, args.config)
    weights = sized.weights
    if weights is None:
        hint = (
            "Write `footprint` into its [engines.command] entry, and load it: ctl ps measures it."
        )
        message = f"{args.model} is run by a command of your own: only that knows what it takes."
        raise RefusedError("invalid_request", message, hint)
    slots = args.slots or sized.model.slots
    wanted = [args.ctx] if args.ctx else _contexts(weights)
    rows = [(ctx, _price(sized, ctx, slots)) for ctx in wanted]
    most = _largest(sized, here.budget, slots)
    if out.json:
        out.value(_facts(sized, weights, slots, rows, here.budget, most))
        return 0
    name = sized.path.name if sized.path is not None else sized.model.name
    out.line(f"{name}: {summary(weights)}")
    if not sized.here:
        out.line(f"! {PUBLISHED}: its weights are not here (ctl pull {sized.model.name})")
    table = [
        (
            str(ctx),
            amounts({pool: part.total for pool, part in parts.items()}),
            *(size(n) for n in (p.weights, p.kv, p.compute, p.overhead)),
            size(p.output + p.checkpoints + p.prompt_cache),
        )
        for ctx, parts in rows
        for p in (_sum(parts),)
    ]
    out.table(COLUMNS, table)
    out.line(_fit_line(sized, here.budget, slots, most))
    if not weights.exact:
        out.line("! Its cache has a shape that is only approximated here.")
    if sized.missing:
        out.line(f"! {sized.missing}")
    return 0


def find(name: str, config: str | None) -> tuple[Here, Sized]:
    """A file or a folder, else a model by any of its names, presets among them.

    Raises ``RefusedError``, ``ConfigError``, ``ProblemError``.
    """
    from daemon.config.mistakes import ConfigError
    from daemon.config.settings import Settings
    from daemon.weights.errors import WeightsError

    path = absolute(name)
    is_path = path.exists()
    try:
        here = Here(config)
    except ConfigError:
        if not is_path:
            raise
        here = Here(config, settings=Settings())  # a file needs no configuration
    model = here.catalog.meant(name)
    if model is None or (is_path and name not in here.catalog.models):
        if not is_path:
            raise here.unknown(name)
        try:
            return here, here.sizer().of_file(path.absolute())
        except WeightsError as error:
            raise RefusedError("invalid_request", str(error)) from error
    return here, here.sizer().size(model)


def read_weights(path: Path) -> Weights:
    """What the files say. Raises ``RefusedError`` for files that are no model."""
    from daemon.weights.describe import WeightsError, describe

    try:
        return describe(path)
    except WeightsError as error:
        raise RefusedError("invalid_request", str(error)) from error


def _price(sized: Sized, ctx: int, slots: int) -> Parts:
    """Bytes by pool with ``slots`` conversations of ``ctx`` tokens each."""
    from daemon.engines.base import Running

    return sized.price(Running("", ctx, slots))


def _sum(parts: Parts) -> Breakdown:
    from daemon.weights.footprint import Breakdown

    return sum(parts.values(), Breakdown(0, 0, 0, 0, 0))


def _largest(sized: Sized, budget: Budget, slots: int) -> int | None:
    from daemon.planning import largest

    return largest(sized, budget.amounts, slots=slots)


def _fit_line(sized: Sized, budget: Budget, slots: int, most: int | None) -> str:
    """The largest context that fits this machine with nothing else loaded."""
    shown = {pool: budget.amounts.get(pool, 0) for pool in _pools(sized, slots)}
    room = " + ".join(f"{size(count)} {pool}" for pool, count in sorted(shown.items()))
    if most is None:
        least = amounts({k: v.total for k, v in _price(sized, 1024, slots).items()})
        return f"It does not fit {room}: with 1024 tokens it needs {least} already."
    need = amounts({pool: part.total for pool, part in _price(sized, most, slots).items()})
    whole = ", all that it was trained for" if most == sized.trained else ""
    each = f" for each of {slots}" if slots > 1 else ""
    return f"largest context that fits: {most}{each}{whole} ({need} of {room}, nothing else loaded)"


def _pools(sized: Sized, slots: int) -> list[str]:
    return [pool for pool, part in _price(sized, 1024, slots).items() if part.total]


def _facts(
    sized: Sized,
    weights: Weights,
    slots: int,
    rows: list[tuple[int, Parts]],
    budget: Budget,
    most: int | None,
) -> dict[str, Any]:
    estimates = [
        {
            "ctx": ctx,
            "total": _sum(parts).total,
            **asdict(_sum(parts)),
            "pools": {pool: part.total for pool, part in parts.items()},
        }
        for ctx, parts in rows
    ]
    need = _price(sized, most, slots) if most else {}
    return {
        "model": sized.model.name,
        "path": str(sized.path) if sized.path is not None else None,
        "source": source_of(sized),
        "architecture": weights.architecture,
        "quantisation": sized.quant,
        "context_max": weights.n_ctx_train,
        "engine": sized.site.engine,
        "slots": slots,
        "exact": weights.exact and sized.here,
        "estimates": estimates,
        "budget": dict(budget.amounts),
        "largest": {"ctx": most, "pools": {pool: part.total for pool, part in need.items()}},
    }


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

    parser.add_argument(
        "model", metavar="MODEL|PATH", help="a configured model, a preset, or its files"
    )
    parser.add_argument(
        "--ctx", type=context_length, metavar="N", help="context in tokens (or 32k)"
    )
    parser.add_argument(
        "--slots",
        type=int,
        choices=range(1, 257),
        metavar="N",
        help="requests at once (default: as configured, else 1)",
    )
    add_config_flag(parser)


COMMANDS: Final = {
    "estimate": Command(
        summary="estimate the memory that a model takes, and the largest context that fits",
        text="Nothing is started and nothing downloaded: of presets that are not here published\n"
        "figures count. Context and cache are per request that is served at once.",
        examples=(
            ("ctl estimate ~/models/qwen3-coder-Q4_K_M.gguf", "for several contexts"),
            ("ctl estimate gemma --ctx 64k --slots 2", ""),
            ("ctl estimate qwen3-coder", "a preset, before it is pulled"),
        ),
        run=estimate,
        arguments=_arguments,
    ),
}
