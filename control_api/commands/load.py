"""``load``, ``unload``, ``pin``, ``unpin``, ``reset``, ``pull``: change what runs."""

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
    return _steps(args, out, "load", decision.options)


def pull(args: Namespace, out: Out) -> int:
    return _steps(args, out, "pull", {})


def _steps(args: Namespace, out: Out, verb: str, options: dict[str, Any]) -> int:
    client = Client()
    path = f"/models/{segment(args.model)}/{verb}"
    if args.no_wait:
        done = client.post(path, **options)
        if out.json:
            out.value(done)
        else:
            out.line(f"{verb} of {done.get('model') or args.model} has begun")
        return 0
    last: dict[str, Any] = {}
    steps = Steps(out)
    try:
        with steps:
            for line in client.progress(path, **options):
                steps.show(line)
                last = line
    except KeyboardInterrupt:
        undo = f"; `ctl unload {args.model}` ends it" if verb == "load" else ""
        out.note(f"The {verb} of {args.model} goes on; `ctl events` shows it{undo}.")
        raise
    if last.get("step") not in {"ready", "done"}:
        raise RefusedError(
            "shutting_down",
            f"The daemon ended the {verb} of {args.model} without an answer.",
            "`ctl events --since 0` and `ctl logs daemon` show why.",
        )
    _print_end(args.model, verb, last, steps.elapsed, client, out)
    return 0


def _print_end(
    name: str, verb: str, last: dict[str, Any], took: float, client: Client, out: Out
) -> None:
    facts = last.get("facts") or {}
    if verb == "load" and not {"footprint", "model"} <= set(facts):
        try:
            facts = {**client.get(f"/backends/{segment(name)}"), **facts}
        except RefusedError:  # gone again already: what is known has to do
            facts = dict(facts)
    name = str(facts.get("model") or name)
    if out.json:
        out.value(
            {
                "model": name,
                "step": last["step"],
                "text": last.get("text", ""),
                "seconds": round(took, 3),
                "facts": facts,
            }
        )
        return
    word = out.paint("ready" if verb == "load" else "pulled", "green")
    out.line("  ".join(filter(None, (word, name, footprint(facts), duration(took)))))
    if warning := facts.get("warning"):  # of the engine: it cannot use the GPU that is there
        out.line(f"{out.paint('!', 'yellow')} {name}: {warning}")


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
    "pull": Command(
        summary="download a model's files and wait for the end",
        text="Ctrl-C stops waiting, not the download.",
        examples=(
            ("ctl pull qwen3-coder", ""),
            ("ctl pull qwen3-coder --no-wait", "begin, and come back at once"),
        ),
        run=pull,
        arguments=_wait,
    ),
}
