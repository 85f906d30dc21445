"""``bench``: how fast a model is here, through the fixed port; kept, and compared."""

from __future__ import annotations

import os
import secrets
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from control_api.client import Client, RefusedError, segment, view
from control_api.commands.asking import agreed
from control_api.commands.bench_compare import before, changes, settings
from control_api.commands.command import Command, whole
from control_api.commands.output import Out, duration, pools, size
from control_api.commands.progress import Steps
from control_api.commands.stories import clock
from daemon.proving.speed import (
    GENERATE,
    ITEM,
    PROMPT,
    RUNS,
    Sample,
    SpeedError,
    Wanted,
    measure,
    total,
)
from daemon.proving.values import Subject
from daemon.views import BenchView, FigureView, MeasuredView, ModelView

KEY_ENV: Final = "MODELPORT_API_KEY"
LIST: Final = "ls"
MOST_TOKENS: Final = 1 << 20
MOST_RUNS: Final = 100
SHOWN: Final = 50
ROUTES: Final = {"chat": "chat", "embedding": "embeddings", "rerank": "rerank"}
NAMES: Final = {
    "load": "load",
    "first_token": "first token",
    "latency": "one text",
    "prefill": "reading",
    "generation": "writing",
    "items": "texts",
}


def bench(args: Namespace, out: Out) -> int:
    client = Client()
    if args.bench == LIST:
        return _list(client, args.model, out)
    if args.model is not None:
        raise RefusedError(
            "invalid_request", "One model is measured at a time.", f"ctl bench {args.bench}"
        )
    if args.compare:
        return _compare(client, args.bench, out)
    model = view(ModelView, client.get(f"/models/{segment(args.bench)}"))
    wanted = _wanted(model, args)
    cold = not args.warm
    if cold:
        _make_cold(client, model.name, args, out)
    try:
        with Steps(out) as steps:
            load = _load(client, model.name, steps, cold=cold)
            measured = _measure(client, model, wanted, load, steps)
    except SpeedError as error:
        raise RefusedError("not_measured", str(error), error.hint) from None
    except KeyboardInterrupt:
        out.note(f"Interrupted: nothing is kept. {model.name} stays loaded.")
        raise
    return _keep(client, model, measured, out)


def _wanted(model: ModelView, args: Namespace) -> Wanted:
    """What to measure of a model of this kind. Raises ``RefusedError``."""
    kind = model.kind if model.kind in ("embedding", "rerank") else "chat"
    if ROUTES[kind] not in model.routes and not model.problem:
        said = ", ".join(model.routes) or "nothing"
        text = f"{model.name} cannot be measured: it serves {said}."
        raise RefusedError("unsupported_dialect", text, "It must chat, embed or rerank.")
    usual = PROMPT if kind == "chat" else ITEM
    generate = (args.generate or GENERATE) if kind == "chat" else 0
    return Wanted(args.prompt or usual, generate, args.runs or RUNS, kind)


# ------------------------------------------------------------ loading


def _make_cold(client: Client, name: str, args: Namespace, out: Out) -> None:
    """Unload it, so that its start can be measured; where others use it, only if that is agreed."""
    backend = _backend(client, name)
    if backend is None:
        return
    waiting, busy = int(backend["queue"]), int(backend["leases"])
    if (waiting or busy) and not args.yes:
        text = f"{name} is in use ({busy} running, {waiting} waiting): a cold start unloads it."
        if not agreed(f"{text} Go on once they are done?", out):
            hint = "--warm measures it as it is; --yes unloads it once its requests are over."
            raise RefusedError("model_busy", text, hint)
    client.post(f"/models/{segment(name)}/unload", seconds=3600.0, force=False)


def _backend(client: Client, name: str) -> dict[str, Any] | None:
    found = client.get("/backends")["backends"]
    return next((dict(one) for one in found if one["model"] == name), None)


def _load(client: Client, name: str, steps: Steps, *, cold: bool) -> float | None:
    """Load it; the seconds from the start of its process until it answered, if it was started."""
    earlier = _backend(client, name)
    for line in client.progress(f"/models/{segment(name)}/load"):
        steps.show(line)
    now = _backend(client, name)
    if now is None:
        text = f"{name} was unloaded before it could be measured."
        raise RefusedError("model_unavailable", text, f"`ctl why {name}`")
    fresh = earlier is None or earlier["generation"] != now["generation"]
    ready, started = now["ready_at"], now["started_at"]
    if not (cold and fresh) or ready is None:
        return None
    return max(0.0, float(ready) - float(started))


# ------------------------------------------------------------ measuring


def _measure(
    client: Client, model: ModelView, wanted: Wanted, load: float | None, steps: Steps
) -> MeasuredView:
    """All runs. Raises SpeedError, ``RefusedError``."""
    from daemon.proving.driver import hear  # http.client only where it is needed

    backend = client.get(f"/backends/{segment(model.name)}")
    subject = Subject(model.name, context=backend["context"], slots=backend["slots"])
    others = _others(client, model.name)
    far, url = client.far, client.url()
    key = os.environ.get(KEY_ENV) or (far.key if far is not None else None)
    dial = far.open if far is not None else None
    talk = measure(subject, wanted, secrets.SystemRandom())
    samples: list[Sample] = []
    try:
        step = next(talk)
        while True:
            steps.show({"step": "measure" if step.run else "warm-up", "text": step.text})
            step = talk.send(hear(step.ask, url, key, dial))
    except StopIteration as end:
        samples = end.value
    finally:
        talk.close()
    others |= _others(client, model.name)
    return total(wanted, samples, load=load, disturbed=", ".join(sorted(others)))


def _others(client: Client, name: str) -> set[str]:
    """Models that serve somebody now."""
    found = client.get("/backends")["backends"]
    return {str(one["model"]) for one in found if one["leases"] and one["model"] != name}


def _keep(client: Client, model: ModelView, measured: MeasuredView, out: Out) -> int:
    """Have it kept, and show it beside the one of before."""
    path = f"/models/{segment(model.name)}/benchmarks"
    kept = view(BenchView, client.post(path, **asdict(measured)))
    history = _history(client, model.name)
    _tell(kept, before(kept, history), out)
    return 0


def _history(client: Client, name: str | None) -> list[BenchView]:
    """Newest first."""
    data = client.get("/benchmarks", model=name or None, limit=1000)
    return [view(BenchView, one) for one in data["benchmarks"]]


# ------------------------------------------------------------ showing


def _tell(new: BenchView, old: BenchView | None, out: Out) -> None:
    if out.json:
        out.value(_facts(new, old))
        return
    out.line(f"{out.paint(new.model, 'bold')}  {_served(new)}")
    had = {figure.name: figure for figure in old.measured.figures} if old is not None else {}
    made = dict(changes(old, new)) if old is not None else {}
    rows = []
    for figure in new.measured.figures:
        row = [NAMES.get(figure.name, figure.name), _amount(figure), _spread(figure)]
        if old is not None:
            then = _amount(had[figure.name]) if figure.name in had else "-"
            row += [then, made[figure.name].text if figure.name in made else ""]
        rows.append(row)
    head = ["", "MEDIAN", "SPREAD", *(["BEFORE", "CHANGE"] if old is not None else [])]
    out.table(head, rows)
    if new.footprint:
        seen = f"{size(new.taken)} measured, " if new.taken is not None else ""
        out.line(f"memory: {seen}{pools(new.footprint)} reserved for it")
    for line in _remarks(new):
        out.line(line)
    if old is not None:
        other = "; ".join(settings(old, new)) or "served in the same way"
        out.line(f"before: {clock(old.at)}, {other}")


def _served(one: BenchView) -> str:
    slots = f" x {one.slots}" if one.slots > 1 else ""
    context = f"context {one.context}{slots}" if one.context else ""
    engine = f"{one.engine} {one.version}".strip()
    return ", ".join(filter(None, (engine, one.quant, context)))


def _remarks(one: BenchView) -> list[str]:
    """What was really asked, and what is to be known of it."""
    made = one.measured
    wrote = f", {made.tokens_out} written" if made.generate else ""
    timed = "by the engine's own times" if made.timed_by == "engine" else "by the clock of ctl"
    again = f"; {made.cached} of them were known already" if made.cached else ", none known before"
    found = [f"{made.runs} runs, {made.tokens_in} tokens read{again}{wrote}; {timed}"]
    if made.generate and made.tokens_out < made.generate:
        found.append(f"! Its answers ended by themselves before {made.generate} tokens.")
    if made.tokens_in != made.prompt:
        found.append(f"! {made.prompt} tokens were asked for, it read {made.tokens_in}.")
    if made.disturbed:
        found.append(f"! Meanwhile others were served by {made.disturbed}: measure it again.")
    return found


def _amount(figure: FigureView) -> str:
    if figure.unit == "s":
        return _seconds(figure.median)
    return f"{figure.median:.1f} {figure.unit}"


def _spread(figure: FigureView) -> str:
    if figure.count < 2:
        return ""
    if figure.unit == "s":
        return f"{_seconds(figure.low)} .. {_seconds(figure.high)}"
    return f"{figure.low:.1f} .. {figure.high:.1f}"


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds)


def _facts(new: BenchView, old: BenchView | None) -> dict[str, Any]:
    found = asdict(new)
    if old is None:
        return {**found, "before": None, "changes": {}}
    made = {
        name: {"share": round(one.share, 6), "better": one.better, "clear": one.clear}
        for name, one in changes(old, new)
    }
    return {**found, "before": asdict(old), "changes": made}


def _compare(client: Client, name: str, out: Out) -> int:
    """The newest that is kept, beside the one of before; nothing is asked of the model."""
    kept = _history(client, name)
    if not kept:
        raise RefusedError("not_measured", f"{name} has not been measured.", f"ctl bench {name}")
    _tell(kept[0], before(kept[0], kept), out)
    return 0


def _list(client: Client, name: str | None, out: Out) -> int:
    kept = _history(client, name)
    if out.json:
        out.value({"benchmarks": [asdict(one) for one in kept]})
        return 0
    if not kept:
        out.line(
            f"{name or 'No model'} has {'not ' * bool(name)}been measured yet: ctl bench MODEL"
        )
        return 0
    rows = [_row(one) for one in kept[:SHOWN]]
    head = (
        "MODEL",
        "WHEN",
        "ENGINE",
        "QUANT",
        "CONTEXT",
        "ASKED",
        "LOAD",
        "FIRST",
        "READS",
        "DOES",
    )
    out.table(head, rows)
    if len(kept) > SHOWN:
        out.line(f"… and {len(kept) - SHOWN} older: --json has all.")
    return 0


def _row(one: BenchView) -> Sequence[str]:
    had = {figure.name: figure for figure in one.measured.figures}

    def cell(*names: str) -> str:
        return next((_amount(had[name]) for name in names if name in had), "-")

    made = one.measured
    asked = f"{made.prompt}+{made.generate}" if made.generate else str(made.prompt)
    engine = f"{one.engine} {one.version}".strip()
    return (
        one.model, clock(one.at), engine, one.quant or "-", str(one.context or "-"), asked,
        cell("load"), cell("first_token", "latency"), cell("prefill"), cell("generation", "items"),
    )  # fmt: skip


def _arguments(parser: ArgumentParser) -> None:
    tokens = whole(1, MOST_TOKENS, "tokens")
    parser.add_argument("bench", metavar="MODEL|ls", help="name or alias; ls: what was measured")
    parser.add_argument("model", metavar="MODEL", nargs="?", help="with ls: this model alone")
    parser.add_argument(
        "--prompt", type=tokens, metavar="N",
        help=f"tokens to read (default {PROMPT}; of each text to embed or rank {ITEM})",
    )  # fmt: skip
    parser.add_argument(
        "--generate", type=tokens, metavar="N", help=f"tokens to write (default {GENERATE})"
    )
    parser.add_argument(
        "--runs", type=whole(1, MOST_RUNS, "runs"), metavar="K", help=f"default {RUNS}"
    )
    parser.add_argument("--warm", action="store_true", help="as it is loaded: no cold start")
    parser.add_argument(
        "--compare", action="store_true", help="the last two that are kept; measures nothing"
    )
    parser.add_argument("--yes", "-y", action="store_true", help="unload it though it is in use")


COMMANDS: Final = {
    "bench": Command(
        summary="measure a model: load, first token, reading and writing speed, memory",
        text="It is started anew (its file may still be in the system's cache) and asked through\n"
        "the fixed port, as clients do. Every prompt is words in an order by chance, so nothing\n"
        "but the template can have been read before. Median and spread of all runs; by the\n"
        "engine's own times where it tells them. Embedding and ranking models: texts a second.\n"
        "What is measured is kept, with engine, version, quantisation and context, and shown\n"
        f"beside the time before. {KEY_ENV} is sent as the key, where one is needed.",
        examples=(
            ("ctl bench qwen3-coder", ""),
            ("ctl bench qwen3-coder --prompt 16384 --generate 256 --runs 5", "as an agent asks"),
            ("ctl bench qwen3-coder --compare", "the last two, measuring nothing"),
            ("ctl bench ls", "all that was measured"),
        ),
        run=bench,
        arguments=_arguments,
    ),
}
