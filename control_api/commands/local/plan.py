"""``plan``: which models fit together, and how; it can write that into the configuration."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any, Final

from control_api.client import RefusedError
from control_api.commands.asking import agreed, need_somebody
from control_api.commands.command import Command
from control_api.commands.local.planned import Decided, Row, decide, entries
from control_api.commands.local.settings import add_config_flag, report_change, tell_daemon
from control_api.commands.local.sizes import PUBLISHED, Here, amounts, given_budget, source_of
from control_api.commands.local.wishes import FORM, read_wishes
from control_api.commands.output import Out, size

MOST_MODELS: Final = 16  # in one plan: more take long to weigh against each other


def plan(args: Namespace, out: Out) -> int:
    if len(args.model) > MOST_MODELS:
        message = f"{len(args.model)} models are too many for one plan: {MOST_MODELS} at most."
        raise RefusedError("invalid_request", message, "Name those that you use together.")
    here = Here(args.config)
    wishes = read_wishes(args.model, here)
    budget = given_budget(args.budget, here.budget) if args.budget else here.budget
    decided = decide(wishes, here, budget)
    changes = entries(decided, here)
    if args.write:
        return _write(decided, changes, args, here, out)
    if out.json:
        out.value(_facts(decided, changes))
    else:
        _print(decided, out)
        _print_steps(decided, changes, args, out)
    return 1 if decided.left_out else 0


# ------------------------------------------------------------ showing


def _print(decided: Decided, out: Out) -> None:
    """The table, the sum, what is left out, and what is to be known of it."""
    budget = decided.budget
    if decided.rows:
        table = [
            (
                row.model,
                row.option.quant or "-",
                str(row.option.context or "-") + _each(row),
                row.option.cache,
                amounts(row.need),
                _note(row),
            )
            for row in decided.rows
        ]
        out.table(("MODEL", "QUANT", "CONTEXT", "CACHE", "MEMORY", "NOTE"), table)
        needs = {pool: decided.need.get(pool, 0) for pool in _shown(decided)}
        sums = [f"{size(n)} of {size(budget.amounts[pool])} {pool}" for pool, n in needs.items()]
        where = {"daemon": "", "machine": "", "--budget": " (--budget)"}[budget.source]
        out.line(f"together: {', '.join(sums)}{where}")
    for name, lack in decided.left_out.items():
        out.line(f"{out.paint('does not fit', 'yellow')}: {name} lacks {amounts(lack)}")
    if any(row.sized.weights is not None and not row.option.here for row in decided.rows):
        out.line(f"! to pull: {PUBLISHED}.")
    for row in decided.rows:
        if row.sized.missing:
            out.line(f"! {row.model}: {row.sized.missing}")


def _shown(decided: Decided) -> list[str]:
    """The pools that are used, or that models are loaded into."""
    budget = decided.budget
    return [pool for pool in budget.amounts if decided.need.get(pool) or pool in budget.main]


def _each(row: Row) -> str:
    slots = row.wish.model.slots
    return f" x {slots}" if slots > 1 and row.option.context else ""


def _note(row: Row) -> str:
    """What else is to be known of a row, in a few words."""
    notes = [] if row.option.here else ["to pull"]
    if row.requantised:
        notes.append("another quantisation")
    trained = row.sized.trained
    if trained and row.option.context > trained:
        notes.append(f"trained for {trained}")
    if row.spare:
        notes.append(f"{size(row.spare)} of it for earlier prompts")
    return ", ".join(notes)


def _print_steps(decided: Decided, changes: Mapping[str, Any], args: Namespace, out: Out) -> None:
    """The exact next commands."""
    if decided.left_out:
        steps = [_again(decided.fitting, args)] if decided.rows else []
    else:
        steps = [f"{_again(args.model, args)} --write"] if changes else []
        steps += [row.pull for row in decided.rows if row.pull]
    for index, step in enumerate(steps):
        out.line(f"{'next: ' if index == 0 else '      '}{step}")


def _again(texts: Sequence[str], args: Namespace) -> str:
    words = ["ctl", "plan", *texts]
    words += ["--budget", args.budget] if args.budget else []
    words += ["--config", args.config] if args.config else []
    return shlex.join(words)


def _facts(decided: Decided, changes: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "fits": not decided.left_out,
        "budget": dict(decided.budget.amounts),
        "budget_source": decided.budget.source,
        "need": decided.need,
        "models": [
            {
                "model": row.model,
                "quant": row.option.quant,
                "context": row.option.context or None,
                "slots": row.wish.model.slots,
                "cache": row.option.cache,
                "need": dict(row.need),
                "prompt_cache": row.spare,
                "engine": row.sized.site.engine,
                "here": row.option.here,
                "source": source_of(row.sized),
                "pull": row.pull or None,
                "problem": row.sized.missing or None,
            }
            for row in decided.rows
        ],
        "left_out": [
            {"model": name, "lacks": dict(lack)} for name, lack in decided.left_out.items()
        ],
        "changes": dict(changes),
        **more,
    }


# ------------------------------------------------------------ writing


def _write(
    decided: Decided,
    changes: Mapping[str, Mapping[str, Any]],
    args: Namespace,
    here: Here,
    out: Out,
) -> int:
    """Put the plan into the file, when told or asked. Raises ``RefusedError``, ``ConfigError``."""
    from daemon.config.edit import set_models

    if decided.left_out:
        message = f"Nothing is written: {', '.join(decided.left_out)} would not fit."
        hint = f"See `{_again(args.model, args)}` for what does."
        raise RefusedError("model_too_large", message, hint)
    path = here.paths.config_file
    if not out.json:
        _print(decided, out)
    if not changes:
        if out.json:
            out.value(_facts(decided, changes, file=str(path), written=False, reloaded=None))
        else:
            out.line(f"{path} has it so already.")
        return 0
    if not args.yes and not _agreed(changes, str(path), out):
        out.note("Nothing was changed.")
        return 1
    set_models(path, changes)
    reloaded = tell_daemon(path, out)
    if out.json:
        out.value(_facts(decided, changes, file=str(path), written=True, reloaded=reloaded))
        return 0
    report_change(out, f"wrote {', '.join(changes)}", path, reloaded)
    _print_steps(decided, {}, args, out)
    return 0


def _agreed(changes: Mapping[str, Mapping[str, Any]], path: str, out: Out) -> bool:
    """Show what would be written, and ask. Raises ``RefusedError`` where nobody can be asked."""
    need_somebody(f"This changes {path}", "Say --yes to have it written.", out)
    for name, entry in changes.items():
        words = [
            f"{key} = {_toml(value)}" if value is not None else f"no {key}"
            for key, value in entry.items()
        ]
        out.note(f"[models.{name}] {', '.join(words)}")
    return agreed(f"Write this to {path}?", out)


def _toml(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)  # text, numbers and lists are written alike


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL[@CTX][:QUANT]", nargs="+", help=FORM)
    parser.add_argument(
        "--budget", metavar="SIZE", help="instead of this machine's: 18GiB, or gpu0=20GiB,gpu1=8GiB"
    )
    parser.add_argument("--write", action="store_true", help="put it into the configuration file")
    parser.add_argument("--yes", "-y", action="store_true", help="with --write: do not ask")
    add_config_flag(parser)


COMMANDS: Final = {
    "plan": Command(
        summary="what fits together at once: quantisations, contexts, kinds of cache",
        text="What is named first matters most. A context behind @ is kept; without one it goes\n"
        "from what is configured down to min_ctx. Nothing is started and nothing downloaded.\n"
        "The exit code is 1 if something does not fit.",
        examples=(
            ("ctl plan qwen3-coder@64k nomic-embed-text", "the coder with 65536 tokens"),
            ("ctl plan qwen3-coder:Q6_K qwen3-0.6b --budget 32GiB", "for another machine"),
            ("ctl plan coder fim embed --write", "into the configuration, after asking"),
        ),
        run=plan,
        arguments=_arguments,
    ),
}
