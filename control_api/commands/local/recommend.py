"""``recommend``: which model to take on this machine for a task. Works without a daemon."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from control_api.client import RefusedError
from control_api.commands.command import Command
from control_api.commands.local.planned import offered
from control_api.commands.local.settings import add_config_flag
from control_api.commands.local.sizes import PUBLISHED, Budget, Here, amounts, given_budget
from control_api.commands.local.wishes import Wish, read_wishes
from control_api.commands.output import Out, size

if TYPE_CHECKING:
    from daemon.backends.sizing import Sized, Sizer
    from daemon.config.model import Model
    from daemon.engines.registry import Registry
    from daemon.planning import Option, Wanted
    from daemon.recommending import Candidate, Pick, Task

TASKS: Final = ("code", "chat", "vision", "embed", "rerank", "small")
SHOWN: Final = 5
HISTORY_SECONDS: Final = 2.0  # a daemon that takes longer is not asked for speeds


@dataclass(frozen=True, slots=True)
class Known:
    """One candidate with what is told of it. ``sizes``: its quantisations, on every GPU;
    ``engine_step``: the command that brings an engine which runs it; "" where one is here."""

    model: Model
    sizes: tuple[Sized, ...]
    candidate: Candidate
    engine_step: str = ""
    why: str = ""  # no engine runs it now

    def sized(self, option: Option) -> Sized:
        """What an option was made of."""
        return next(
            one
            for one in self.sizes
            if one.quant == option.quant and one.site.pools == option.pools
        )


@dataclass(frozen=True, slots=True)
class Found:
    """All that is printed. ``speeds``: tokens or items a second as measured here, by model."""

    task: Task
    budget: Budget
    picks: Sequence[Pick]
    known: Mapping[str, Known]
    beside: Sequence[Wish]
    ctx: int | None
    speeds: Mapping[str, str] = field(default_factory=dict)

    def steps(self, pick: Pick) -> list[str]:
        """The commands that try a pick, in their order."""
        one = self.known[pick.candidate.model]
        name = shlex.quote(one.model.name)
        steps = [one.engine_step] if one.engine_step else []
        if one.model.install and not pick.option.here:
            steps.append(one.model.install)
        if one.sized(pick.option).model.hf != one.model.hf:
            at = f"@{pick.option.context}" if pick.option.context else ""
            steps.append(f"ctl plan {name}{at}:{pick.option.quant} --write")
            return [*steps, f"ctl load {name}"]
        return [*steps, f"ctl load {name}{f' --ctx {self.ctx}' if self.ctx else ''}"]

    def pull_bytes(self, pick: Pick) -> int:
        """What must be downloaded; 0 where it is on the disk."""
        weights = self.known[pick.candidate.model].sized(pick.option).weights
        return 0 if pick.option.here or weights is None else weights.disk_bytes


def recommend(args: Namespace, out: Out) -> int:
    found = find(args)
    if out.json:
        out.value(_facts(found))
    elif found.picks:
        show(found, out)
    else:
        _show_nothing(found, out)
    return 0 if found.picks else 1


def find(args: Namespace) -> Found:
    """What fits, best first. Raises ``RefusedError``, ``ConfigError``, ``ProblemError``."""
    from daemon.recommending import TASKS as KNOWN_TASKS
    from daemon.recommending import recommend as ranked
    from daemon.recommending import suits

    here = Here(args.config)
    task = KNOWN_TASKS[args.task]
    budget = given_budget(args.memory, here.budget, "--memory") if args.memory else here.budget
    registry = here.registry()
    sizer = here.sizer(registry)
    beside = read_wishes(args.beside or [], here)
    names = {wish.model.name for wish in beside}
    known = {
        one.model.name: one
        for model in _presets(here)
        if suits(task, model) and model.name not in names
        if (one := _known(model, task, args.ctx, here, sizer, registry)) is not None
    }
    kept = [_beside(wish, here, sizer) for wish in beside]
    candidates = [one.candidate for one in known.values()]
    picks = ranked(task, candidates, kept, budget.amounts)
    return Found(task, budget, picks, known, beside, args.ctx, _speeds() if picks else {})


def _presets(here: Here) -> Iterator[Model]:
    """Every preset, as it is configured where it is."""
    for name in here.presets:
        if (model := here.catalog.find(name)) is not None:
            yield model


def _known(
    model: Model, task: Task, ctx: int | None, here: Here, sizer: Sizer, registry: Registry
) -> Known | None:
    """None for what cannot run here, or of whose size nothing is known."""
    from daemon.core.problems import ProblemError
    from daemon.planning import options
    from daemon.recommending import Candidate, worth

    try:
        sizes = _on_gpus(offered(Wish(model.name, model), here, sizer), here)
        first = sizes[0]
        if ctx is not None and first.trained is not None and first.trained < ctx:
            return None
        ways = options(sizes, ctx=ctx, caches=("f16",))
    except ProblemError:
        return None
    step, why = _engine(first, registry)
    if why and not step:
        return None
    candidate = Candidate(
        model.name, worth(task, model), ways, ready=not why, tools=model.tools is not False
    )
    return Known(model, tuple(sizes), candidate, step, why)


def _on_gpus(sizes: Sequence[Sized], here: Here) -> list[Sized]:
    """Where no engine is installed yet, as one that can use the GPUs would run it."""
    from daemon.engines import pricing
    from daemon.planning import on_each_gpu

    pools = tuple(here.budget.amounts)
    found: list[Sized] = []
    for one in sizes:
        if one.missing and not one.site.devices and any(p.startswith("gpu") for p in pools):
            site = pricing.site(
                one.site.engine, one.kind, one.site.args, pools,
                accelerated=True, pool=one.model.pool,
            )  # fmt: skip
            found += on_each_gpu(replace(one, site=site), pools)
        else:
            found.append(one)
    return found


def _engine(sized: Sized, registry: Registry) -> tuple[str, str]:
    """The command that brings the engine, and why it is needed; ("", why): it never runs here."""
    from daemon.core.problems import ProblemError

    engine = sized.site.engine
    try:
        installed = registry.find(engine)
    except ProblemError as error:
        if engine.startswith("command."):
            return "", error.problem.text
        if engine in ("mlx-lm", "vllm-mlx") and not registry.platform.apple_silicon:
            return "", error.problem.text
        return f"ctl engine install {engine}", f"no {engine} is installed"
    problem = registry.unfit(installed, sized.model.min_engine, "")
    if problem is not None:
        return f"ctl engine update {engine}", problem.message
    return "", ""


def _beside(wish: Wish, here: Here, sizer: Sizer) -> Wanted:
    """A model that is to stay loaded at the same time."""
    from daemon.planning import Wanted, options

    ways = options(offered(wish, here, sizer), ctx=wish.ctx, caches=("f16",))
    return Wanted(wish.model.name, ways)


def _speeds() -> dict[str, str]:
    """What `ctl bench` has measured on this machine; nothing where no daemon runs."""
    from control_api.client import Client, HostError, UnreachableError

    try:
        kept = Client().get("/benchmarks", seconds=HISTORY_SECONDS)["benchmarks"]
        found: dict[str, str] = {}
        for one in kept:  # the newest first
            for figure in one["measured"]["figures"]:
                if figure["name"] in ("generation", "items"):
                    text = f"{figure['median']:.1f} {figure['unit']}"
                    found.setdefault(str(one["model"]), text)
    except (UnreachableError, RefusedError, HostError, KeyError, TypeError, ValueError):
        return {}
    return found


# ------------------------------------------------------------ showing


def show(found: Found, out: Out) -> None:
    """The short list, what is to be known of it, and the line that tries the first."""
    picks = found.picks[:SHOWN]
    measured = any(pick.candidate.model in found.speeds for pick in picks)
    head = ["MODEL", "QUANT", "CONTEXT", "MEMORY", "WEIGHTS", *(["SPEED"] * measured), "ABOUT"]
    rows = []
    for pick in picks:
        name = pick.candidate.model
        model = found.known[name].model
        pull = found.pull_bytes(pick)
        row = [
            name,
            pick.option.quant or "-",
            _context(pick, model),
            amounts(pick.need),
            f"pull {size(pull)}" if pull else "on disk",
            *([found.speeds.get(name, "-")] * measured),
            model.description,
        ]
        rows.append(row)
    out.line(f"{found.task.name}: {_room(found)}")
    out.table(head, rows)
    for line in _remarks(found, picks):
        out.line(f"! {line}")
    for name, option in picks[0].beside.items():
        more = f", {option.quant}, context {option.context}" if option.context else ""
        out.line(f"beside it: {name}{more}, {amounts(option.need)}")
    for index, step in enumerate(found.steps(picks[0])):
        out.line(f"{'try: ' if index == 0 else '     '}{step}")
    if not measured:
        out.line(f"Nobody has measured speeds here yet: ctl bench {picks[0].candidate.model}")


def _context(pick: Pick, model: Model) -> str:
    each = f" x {model.slots}" if model.slots > 1 and pick.option.context else ""
    return f"{pick.option.context or '-'}{each}"


def _room(found: Found) -> str:
    where = {"daemon": "", "machine": ""}.get(found.budget.source, f" ({found.budget.source})")
    beside = ", ".join(wish.model.name for wish in found.beside)
    return f"{found.budget.shown()} for models{where}{f', beside {beside}' if beside else ''}"


def _remarks(found: Found, picks: Sequence[Pick]) -> Iterator[str]:
    for pick in picks:
        one = found.known[pick.candidate.model]
        if one.why:
            yield f"{one.model.name}: {one.why} ({one.engine_step})"
        for warning in one.model.warnings:
            yield f"{one.model.name}: {warning}"
        if found.task.tools and not pick.candidate.tools:
            yield f"{one.model.name}: it calls no tools, so coding agents cannot work with it."
    if all(pick.option.pools == ("ram",) for pick in picks) and found.task.context > 2048:
        yield "no GPU is used here: on the processor alone large models are slow."
    if any(not pick.option.here for pick in picks):
        yield f"to pull: {PUBLISHED}."


def _show_nothing(found: Found, out: Out) -> None:
    from daemon.recommending import least

    out.line(f"{found.task.name}: nothing that is known fits {_room(found)}.")
    smallest = least([one.candidate for one in found.known.values() if _able(found, one)])
    if smallest is not None:
        out.line(f"The smallest, {smallest[0]}, needs {amounts(smallest[1])}.")
    if found.beside:
        out.line("Without --with there is more room.")
    elif found.ctx:
        out.line("With a smaller --ctx more may fit.")


def _able(found: Found, one: Known) -> bool:
    return one.candidate.tools or not found.task.tools


def _facts(found: Found) -> dict[str, Any]:
    return {
        "task": found.task.name,
        "budget": dict(found.budget.amounts),
        "budget_source": found.budget.source,
        "models": [
            {
                "model": pick.candidate.model,
                "quant": pick.option.quant,
                "context": pick.option.context or None,
                "slots": found.known[pick.candidate.model].model.slots,
                "need": dict(pick.need),
                "here": pick.option.here,
                "pull_bytes": found.pull_bytes(pick),
                "engine": found.known[pick.candidate.model].sized(pick.option).site.engine,
                "engine_problem": found.known[pick.candidate.model].why or None,
                "tools": pick.candidate.tools,
                "speed": found.speeds.get(pick.candidate.model),
                "about": found.known[pick.candidate.model].model.description,
                "warnings": list(found.known[pick.candidate.model].model.warnings),
                "beside": {name: dict(option.need) for name, option in pick.beside.items()},
                "try": found.steps(pick),
            }
            for pick in found.picks
        ],
    }


def _arguments(parser: ArgumentParser) -> None:
    from control_api.commands.load import context_length

    parser.add_argument(
        "--task", choices=TASKS, default="code", help="what it is for (default: code)"
    )
    parser.add_argument(
        "--ctx", type=context_length, metavar="N", help="with this context in tokens (or 32k)"
    )
    parser.add_argument(
        "--memory", metavar="SIZE",
        help="what models may take, instead of this machine's: 24GiB, or gpu0=20GiB,gpu1=8GiB",
    )  # fmt: skip
    parser.add_argument(
        "--with", dest="beside", metavar="MODEL", action="append",
        help="a model that stays loaded beside it; may be repeated",
    )  # fmt: skip
    add_config_flag(parser)


COMMANDS: Final = {
    "recommend": Command(
        summary="which model to take on this machine, for code, chat, images, search",
        text="Of the presets, those that fit the memory that models may take here, best first:\n"
        "by what the guides recommend for the task, less what a coarser quantisation and a\n"
        "shorter context lose. Nothing is started and nothing downloaded; no daemon is needed.\n"
        "Speeds are those that `ctl bench` has measured here; none are made up.\n"
        "The exit code is 1 if nothing fits.",
        examples=(
            ("ctl recommend", "for a coding agent"),
            ("ctl recommend --task embed", "for search"),
            ("ctl recommend --with nomic-embed-text --ctx 64k", "beside a model that stays"),
            ("ctl recommend --memory 16GiB --json", "for another machine, for a program"),
        ),
        run=recommend,
        arguments=_arguments,
    ),
}
