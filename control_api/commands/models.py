"""``ls``, ``ps``, ``show``: what models there are and what runs."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any, Final

from control_api.client import Client, segment, view
from control_api.commands.command import Command
from control_api.commands.output import Out, duration, pools, size
from control_api.commands.stories import cause, clock, last_of
from daemon.views import BackendView, ModelView, StoryView

_SAID: Final = 5  # lines of a dying engine

_PS_HEADERS: Final = (
    "MODEL",
    "ENGINE",
    "WHERE",
    "STATE",
    "FOOTPRINT",
    "LEASES",
    "QUEUE",
    "KEEP-ALIVE",
    "UPTIME",
)


def list_models(args: Namespace, out: Out) -> int:
    every = args.all or None
    data = Client().get("/models", presets=args.presets or every, found=every)
    if out.json:
        out.value(data)
        return 0
    models = [view(ModelView, item) for item in data["models"]]
    if every:
        return _list_all(models, out)
    if not models:
        out.line("There are no models yet. `ctl ls --all` shows what is on this machine and")
        out.line("what can be pulled by name;")
        out.line("`ctl add PATH` and `ctl add hf:REPO` add a file or a repository.")
        return 0
    rows = [
        (
            model.name + (" *" if model.pinned else ""),
            out.state(model.state),
            model.engine or "-",
            size(model.size) or "-",
            model.quantisation or "-",
            str(model.context or "-"),
            _tested(model),
            ", ".join(model.aliases) or "-",
            model.source if model.pulled else f"{model.source} (not pulled)",
        )
        for model in models
    ]
    out.table(
        ("MODEL", "STATE", "ENGINE", "SIZE", "QUANT", "CTX", "TESTED", "ALIASES", "SOURCE"), rows
    )
    for model in models:
        if model.problem and not (_preset_alone(model) and not model.pulled):
            out.line(f"{out.paint('!', 'yellow')} {model.name}: {model.problem}")
    return 0


_PLACE_WORDS: Final = {
    "huggingface": "Hugging Face",
    "lmstudio": "LM Studio",
    "llama.cpp": "llama.cpp",
    "ollama": "Ollama",
    "folder": "folder",
}


def _list_all(models: Sequence[ModelView], out: Out) -> int:
    """Of every model where it is and what it can do: yours, then what was found, then presets."""
    ordered = sorted(models, key=lambda model: (_rank(model), model.name.casefold()))
    rows = [
        (
            model.name + (" *" if model.pinned else ""),
            out.state(model.state) if model.pulled else out.paint("not here", "dim"),
            _PLACE_WORDS.get(model.place) or ("preset" if _preset_alone(model) else "yours"),
            size(model.size) or "-",
            model.quantisation or "-",
            _count(model.parameters) or "-",
            str(model.context_max or model.context or "-"),
            _can(model),
            ", ".join(sorted(model.aliases, key=len)[:2]) or "-",
        )
        for model in ordered
    ]
    if not rows:
        out.line("There are no models here. `ctl pull` and `ctl add` bring some.")
        return 0
    headers = ("MODEL", "STATE", "FROM", "SIZE", "QUANT", "PARAMS", "CTX", "CAN", "ALSO CALLED")
    out.table(headers, rows)
    for model in ordered:
        if model.problem and model.pulled:
            out.line(f"{out.paint('!', 'yellow')} {model.name}: {model.problem}")
        if model.clash:
            first = model.name.rpartition("@")[0]
            out.line(f"{out.paint('!', 'yellow')} {model.name}: {first} is another model's name")
    return 0


def _preset_alone(model: ModelView) -> bool:
    return model.preset == model.name


def _rank(model: ModelView) -> int:
    if model.place:
        return 1
    return 0 if model.pulled else 2


def _count(number: int | None) -> str:
    """Parameters as people say them: ``8.0B``, ``135M``."""
    if not number:
        return ""
    if number >= 10**9:
        return f"{number / 10**9:.1f}B"
    return f"{number / 10**6:.0f}M" if number >= 10**6 else f"{number / 10**3:.0f}K"


def _can(model: ModelView) -> str:
    """``chat``, ``embedding``, …, and what more."""
    if model.kind in ("embedding", "rerank"):
        return model.kind
    return ", ".join([model.kind, *(one for one in model.abilities)])


def _tested(model: ModelView) -> str:
    """The verdict; ``?`` where it was of another version of the engine, or of another file."""
    if model.tested is None:
        return "-"
    return model.tested.verdict + ("" if model.tested.current else " ?")


_DOWN: Final = ("failed", "backoff")


def list_backends(args: Namespace, out: Out) -> int:
    client = Client()
    data = client.get("/backends")
    models = client.get("/models")["models"]
    down = [
        {"model": model["name"], "state": model["state"], "problem": model["problem"]}
        for model in models
        if model["state"] in _DOWN
    ]
    running = {item["model"] for item in data["backends"]}
    resting = [m for m in models if m.get("degraded") and m["name"] not in running]
    kept = ("name", "degraded", "degraded_since", "climbs_in")
    degraded = [{key: model[key] for key in kept} for model in resting]
    if out.json:
        out.value({**data, "down": down, "degraded": degraded})
        return 0
    backends = [view(BackendView, item) for item in data["backends"]]
    if backends:
        _print_backends(backends, out)
    elif not down and not resting:
        out.line("No model is loaded. The first request loads one, or `ctl load MODEL`.")
    for one in down:
        out.line(f"{out.paint('!', 'red')} {one['model']} ({one['state']}): {one['problem']}")
    for model in (view(ModelView, item) for item in resting):
        told = _degraded(model, model.name)
        out.line(f"{out.paint('!', 'yellow')} {model.name} ({model.state}): {told}")
    return 0


def _print_backends(backends: Sequence[BackendView], out: Out) -> None:
    now = time.time()
    rows = [
        (
            backend.model,
            backend.engine,
            backend.where,
            out.state(backend.state),
            _footprint(backend),
            str(backend.leases),
            str(backend.queue),
            _keep_alive(backend),
            duration(max(0.0, now - (backend.ready_at or backend.started_at))),
        )
        for backend in backends
    ]
    out.table(_PS_HEADERS, rows)
    for backend in backends:
        degraded = _degraded(backend, backend.model) if backend.degraded else ""
        written = f"tool calls that it wrote as text, made calls: {backend.rescued}"
        rescued = written if backend.rescued else ""
        for told in filter(None, (degraded, backend.warning, rescued)):
            out.line(f"{out.paint('!', 'yellow')} {backend.model}: {told}")


def _degraded(one: BackendView | ModelView, name: str) -> str:
    """What is given up, since when, and how it comes back."""
    if one.degraded_since is None:  # it has been allowed its full size again
        return f"degraded: {one.degraded}"
    since = clock(one.degraded_since)
    return f"degraded since {since}: {one.degraded}; {_full_size(one, name)}"


def _full_size(one: BackendView | ModelView, name: str) -> str:
    wait = one.climbs_in
    later = f", or by itself in {duration(wait)}" if wait else ""
    return f"full size at its next start: `ctl reset {name}`{later}"


def _footprint(backend: BackendView) -> str:
    shown = pools(backend.footprint)
    return f"~{shown}" if backend.footprint_source == "estimated" else shown


def _keep_alive(backend: BackendView) -> str:
    if backend.pinned:
        return "pinned"
    if backend.keep_alive_left is not None:
        return duration(max(0.0, backend.keep_alive_left))
    return "busy" if backend.leases else "never"


def show(args: Namespace, out: Out) -> int:
    client = Client()
    data = client.get(f"/models/{segment(args.model)}")
    backends = client.get("/backends")["backends"]
    running = [item for item in backends if item.get("model") == data.get("name")]
    story = last_of(client, str(data.get("name")))
    if out.json:
        out.value({**data, "backends": running, "story": story})
        return 0
    model = view(ModelView, data)
    out.facts(_model_facts(model, out))
    for item in running:
        out.line()
        out.facts(_backend_facts(view(BackendView, item), out))
    if story is not None:
        out.line()
        out.facts(_death(view(StoryView, story)))
    for told in filter(None, (*model.warnings, model.problem)):
        out.line(f"{out.paint('!', 'yellow')} {told}")
    return 0


def _death(story: StoryView) -> list[tuple[str, str]]:
    """Its last unasked end, with the words that the engine left."""
    last = story.last
    because = cause(last)
    lines = [line.strip() for line in last.lines[-_SAID:] if line.strip() not in because]
    return [
        ("last death", f"{clock(last.at)}: it {story.what}; {story.how}"),
        ("because", because),
        *(("it said", line) for line in lines),
        ("then", "; ".join(filter(None, (story.done, story.followed)))),
        ("more", f"`ctl why {story.model}`"),
    ]


def _model_facts(model: ModelView, out: Out) -> list[tuple[str, str]]:
    size_text = " ".join(filter(None, (size(model.size), model.quantisation)))
    context = f"{model.context or '?'}" + (f" of {model.context_max}" if model.context_max else "")
    parts = ", ".join(
        f"{name.replace('_', ' ')} {size(count)}"
        for name, count in model.breakdown.items()
        if count
    )
    keep = "never unloaded" if model.keep_alive < 0 else duration(model.keep_alive)
    return [
        ("model", out.paint(model.name, "bold")),
        ("aliases", ", ".join(model.aliases)),
        ("state", out.state(model.state)),
        ("kind", "vision" if model.sees and model.kind == "chat" else model.kind),
        ("engine", model.engine or ("none found" if model.pulled else "")),
        ("source", model.source if model.pulled else f"{model.source} (not pulled)"),
        ("found", _PLACE_WORDS.get(model.place, "")),
        ("preset", model.preset or ""),
        ("size", size_text),
        ("chosen", model.choice),
        ("parameters", _count(model.parameters)),
        ("architecture", model.architecture),
        ("can", ", ".join(model.abilities)),
        ("template", model.template),
        *(("file", file) for file in model.files if file != model.source),
        ("projector", model.mmproj),
        ("by default", ", ".join(f"{name} {value}" for name, value in model.params.items())),
        ("context", f"{context} tokens, {model.slots} slots"),
        ("memory", pools(model.estimate)),
        ("of that", parts),
        ("keep-alive", "pinned" if model.pinned else keep),
        ("serves", ", ".join(model.routes)),
        ("variants", ", ".join(model.variants)),
        ("degraded", model.degraded),
        ("since", clock(model.degraded_since) if model.degraded_since is not None else ""),
        ("to undo", _full_size(model, model.name) if model.degraded_since else ""),
        ("args", " ".join(model.args)),
        *_tested_facts(model),
    ]


def _tested_facts(model: ModelView) -> list[tuple[str, str]]:
    tested = model.tested
    if tested is None:
        return []
    engine = f"{tested.engine} {tested.version}".strip()
    old = "" if tested.current else "; it is served otherwise today: `ctl test`"
    known = [one for one in tested.findings if one.outcome in ("but", "broken")]
    return [
        ("tested", f"{tested.verdict} ({engine}, {clock(tested.at)}){old}"),
        *((one.step, one.text) for one in known),
    ]


def _backend_facts(backend: BackendView, out: Out) -> list[tuple[str, str]]:
    ids: list[tuple[str, Any]] = [("pid", backend.pid), ("keeper", backend.keeper_pid)]
    process = ", ".join(f"{name} {number}" for name, number in ids if number)
    loaded = backend.ready_at - backend.started_at if backend.ready_at else None
    measured = f", {size(backend.measured)} measured" if backend.measured else ""
    return [
        ("backend", f"{out.state(backend.state)}, {process}, start {backend.generation}"),
        ("address", backend.address or ""),
        ("where", backend.where),
        ("variant", f"{backend.variant}, {backend.context} tokens, {backend.slots} slots"),
        ("memory", f"{pools(backend.footprint)} {backend.footprint_source}{measured}"),
        ("busy", f"{backend.leases} leases, {backend.queue} queued"),
        ("keep-alive", _keep_alive(backend)),
        ("load took", duration(loaded)),
        ("log", backend.log),
        ("warning", backend.warning),
    ]


def _list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--presets", action="store_true", help="also the presets that could be added"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="also presets, and what is on this machine: Hugging Face's cache, LM Studio, "
        "llama.cpp, Ollama, discovery.folders",
    )


def _show_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name or alias")


COMMANDS: Final = {
    "ls": Command(
        summary="list all models (* is pinned; ? was tested with another engine version or file)",
        examples=(
            ("ctl ls", ""),
            ("ctl ls --all", "what is on this machine too, each servable by name"),
            ("ctl ls --presets", "what can be added by name"),
        ),
        run=list_models,
        arguments=_list_arguments,
    ),
    "ps": Command(
        summary="list the running models (~ is an estimate)",
        examples=(
            ("ctl ps", ""),
            ("ctl ps --json | jq '.backends[].model'", "their names alone"),
        ),
        run=list_backends,
    ),
    "show": Command(
        summary="show one model: source, memory, what runs of it",
        examples=(("ctl show qwen3-coder", ""),),
        run=show,
        arguments=_show_arguments,
    ),
}
