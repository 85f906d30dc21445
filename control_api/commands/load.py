"""``load``, ``unload``, ``pin``, ``unpin``, ``reset``: change what runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any, Final

from control_api.client import SLOW_SECONDS, Client, RefusedError, segment
from control_api.commands.command import Command
from control_api.commands.output import Out, duration
from control_api.commands.progress import Steps, footprint


def load(args: Namespace, out: Out) -> int:
    from control_api.commands.room import decide

    decision = decide(Client(), args.model, args.ctx, args.fit, out, yes=args.yes)
    if decision.command:
        from control_api.commands.local.memory import raise_as

        raise_as(decision.command, out)
    return _steps(args, out, decision.options)


def _steps(args: Namespace, out: Out, options: dict[str, Any]) -> int:
    client = Client()
    path = f"/models/{segment(args.model)}/load"
    if args.no_wait:
        begun(client.post(path, **options), "load", args.model, out)
        return 0
    steps = Steps(out)
    try:
        last = watched(client, path, options, steps, f"load of {args.model}")
    except KeyboardInterrupt:
        out.note(
            f"The load of {args.model} goes on; `ctl events` shows it; "
            f"`ctl unload {args.model}` ends it."
        )
        raise
    _print_end(args.model, last, steps.elapsed, client, out)
    return 0


def begun(done: dict[str, Any], verb: str, name: str, out: Out) -> None:
    """Say that it goes on without us."""
    if out.json:
        out.value(done)
    else:
        out.line(f"{verb} of {done.get('model') or name} has begun")


def watched(
    client: Client, path: str, options: dict[str, Any], steps: Steps, what: str
) -> dict[str, Any]:
    """Show the steps of a load or a pull up to the last one, which is given back. Raises
    ``RefusedError``."""
    last: dict[str, Any] = {}
    with steps:
        for line in client.progress(path, **options):
            steps.show(line)
            last = line
    if last.get("step") not in {"ready", "done"}:
        raise RefusedError(
            "shutting_down",
            f"The daemon ended the {what} without an answer.",
            "`ctl events --since 0` and `ctl logs daemon` show why.",
        )
    return last


def _print_end(name: str, last: dict[str, Any], took: float, client: Client, out: Out) -> None:
    facts = last.get("facts") or {}
    if not {"footprint", "model"} <= set(facts):
        try:
            facts = {**client.get(f"/backends/{segment(name)}"), **facts}
        except RefusedError:  # gone again already: what is known has to do
            facts = dict(facts)
    name = str(facts.get("model") or name)
    if out.json:
        out.value(ended(name, last, took, facts))
        return
    word = out.paint("ready", "green")
    out.line("  ".join(filter(None, (word, name, footprint(facts), duration(took)))))
    if warning := facts.get("warning"):  # of the engine: it cannot use the GPU that is there
        out.line(f"{out.paint('!', 'yellow')} {name}: {warning}")


def ended(name: str, last: dict[str, Any], took: float, facts: dict[str, Any]) -> dict[str, Any]:
    """The end of a load or a pull, for programs."""
    text, seconds = last.get("text", ""), round(took, 3)
    return {"model": name, "step": last["step"], "text": text, "seconds": seconds, "facts": facts}


def unload(args: Namespace, out: Out) -> int:
    path = "/unload" if args.all else f"/models/{segment(args.model)}/unload"
    try:
        data = Client().post(path, seconds=SLOW_SECONDS, force=args.force)
    except KeyboardInterrupt:
        out.note("The unload goes on, once running requests have ended; --force cuts them.")
        raise
    if out.json:
        out.value(data)
        return 0
    for name in data["unloaded"]:
        out.line(f"unloaded  {name}")
    if not data["unloaded"]:
        out.line("No model was loaded." if args.all else f"{args.model} was not loaded.")
    return 0


def _simple(verb: str, said: str) -> Callable[[Namespace, Out], int]:
    def run(args: Namespace, out: Out) -> int:
        data = Client().post(f"/models/{segment(args.model)}/{verb}")
        if out.json:
            out.value(data)
        else:
            out.line(data.get("text") or f"{said}  {data.get('model') or args.model}")
        return 0

    return run


def _model(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name or alias")


def _wait(parser: ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("--no-wait", action="store_true", help="begin, and do not wait for the end")


def _load_arguments(parser: ArgumentParser) -> None:
    _wait(parser)
    parser.add_argument(
        "--ctx",
        type=context_length,
        metavar="N",
        help="context in tokens, for this run only (or 32k)",
    )
    parser.add_argument(
        "--fit",
        choices=("ask", "shrink", "refuse", "ignore"),
        help="where room is tight: ask (as it does on a terminal), take a smaller context, "
        "refuse, or load all the same",
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing: the safe choice is taken")


def context_length(text: str) -> int:
    """Tokens, as ``32768`` or ``32k``: a type for argparse."""
    from argparse import ArgumentTypeError

    number, factor = (text[:-1], 1024) if text[-1:] in {"k", "K"} else (text, 1)
    if not (number.isascii() and number.isdecimal()) or int(number) < 1:
        raise ArgumentTypeError(f"{text!r} is not a number of tokens such as 32768 or 32k")
    return int(number) * factor


def _unload_arguments(parser: ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("model", metavar="MODEL", nargs="?", help="name or alias")
    which.add_argument("--all", action="store_true", help="all models")
    parser.add_argument("--force", action="store_true", help="cut running requests")


COMMANDS: Final = {
    "load": Command(
        summary="load a model and wait until it is ready",
        text="The load takes its turn in the queue and obeys the budget: idle models may be\n"
        "evicted for it. Ctrl-C stops waiting, not the load. `load` is not `pin`: the\n"
        "model is unloaded again when it has been idle for its keep-alive.",
        examples=(
            ("ctl load qwen3-coder", ""),
            ("ctl load qwen3-coder --ctx 64k", "with a context of 65536 tokens, this once"),
            ("ctl load qwen3-coder --ctx 64k --fit shrink", "or with what there is room for"),
            ("ctl load qwen3-coder --no-wait", "begin, and come back at once"),
        ),
        run=load,
        arguments=_load_arguments,
    ),
    "unload": Command(
        summary="unload a model, or all; running requests may finish first",
        examples=(
            ("ctl unload gemma", ""),
            ("ctl unload --all --force", "free the memory now"),
        ),
        run=unload,
        arguments=_unload_arguments,
    ),
    "pin": Command(
        summary="never evict a model, until `ctl unpin` or the daemon's restart",
        text="`ctl set MODEL pin=true` is for good.",
        examples=(("ctl pin embed", ""),),
        run=_simple("pin", "pinned"),
        arguments=_model,
    ),
    "unpin": Command(
        summary="let a model be evicted again",
        examples=(("ctl unpin embed", ""),),
        run=_simple("unpin", "unpinned"),
        arguments=_model,
    ),
    "reset": Command(
        summary="forget a model's crashes, and what it has given up: it may start again at once",
        examples=(("ctl reset qwen3-coder", ""),),
        text="A model that was given up, or waits out its backoff, may start again at once; one\n"
        "that is degraded after running out of memory starts at full size the next time. What\n"
        "happened stays on record: `ctl why`.",
        run=_simple("reset", "reset"),
        arguments=_model,
    ),
}
