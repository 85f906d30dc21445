"""``pull``: bring a model's files, see what is being brought, end that."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any, Final

from control_api.client import Client, RefusedError, segment, view
from control_api.commands.command import Command
from control_api.commands.load import begun, ended, watched
from control_api.commands.output import Out, duration, size
from control_api.commands.progress import Steps, transfer
from daemon.views import PullView


def pull(args: Namespace, out: Out) -> int:
    client = Client()
    if args.model is None:
        if args.cancel or args.no_wait:
            flag = "--cancel" if args.cancel else "--no-wait"
            raise RefusedError(
                "invalid_request", f"{flag} needs a name.", "`ctl pull` lists what is pulled."
            )
        return _list(client, out)
    if args.cancel:
        return _cancel(client, args.model, out)
    path = f"/models/{segment(args.model)}/pull"
    if args.no_wait:
        begun(client.post(path), "pull", args.model, out)
        return 0
    steps = Steps(out)
    try:
        last = watched(client, path, {}, steps, f"pull of {args.model}")
    except KeyboardInterrupt:
        out.note(
            f"The pull of {args.model} goes on in the daemon. `ctl pull {args.model}` shows it "
            f"again, `ctl pull {args.model} --cancel` ends it."
        )
        raise
    _print_end(args.model, last, steps.elapsed, out)
    return 0


def _print_end(name: str, last: dict[str, Any], took: float, out: Out) -> None:
    facts = last.get("facts") or {}
    name = str(facts.get("model") or name)
    if out.json:
        out.value(ended(name, last, took, facts))
        return
    whole = size(facts["size"]) if isinstance(facts.get("size"), int) else ""
    word = out.paint("pulled", "green")
    out.line("  ".join(filter(None, (word, name, whole, duration(took)))))
    served, source = facts.get("served_as"), str(facts.get("source") or name)
    if served and served != name:
        out.line(f"It is served as {served}: ctl run {served}")
        if facts.get("found"):
            out.line(f"For a name and settings of your own: ctl add {source} NAME")
    elif not served and name.startswith("hf:"):
        out.line(f"To serve it, give it a name: ctl add {source} NAME, then ctl run NAME")
        if facts.get("projector"):
            out.line(f"It can see with its projector: ctl set NAME mmproj={facts['projector']}")


def _list(client: Client, out: Out) -> int:
    data = client.get("/pulls")
    if out.json:
        out.value(data)
        return 0
    pulls = [view(PullView, item) for item in data["pulls"]]
    if not pulls:
        out.line("Nothing is being pulled. `ctl pull MODEL` begins; `ctl search WORDS` finds more.")
        return 0
    rows = [(one.name, one.state, _figures(one) or one.note, one.source) for one in pulls]
    out.table(("MODEL", "STATE", "PROGRESS", "SOURCE"), rows)
    return 0


def _figures(one: PullView) -> str:
    facts = {"done": one.done, "total": one.total, "rate": one.rate, "left": one.left}
    share = f"{one.done / one.total:.0%}" if one.total else ""
    return "  ".join(filter(None, (share, transfer(facts))))


def _cancel(client: Client, name: str, out: Out) -> int:
    data = client.post(f"/pulls/{segment(name)}/cancel")
    if out.json:
        out.value(data)
        return 0
    one = view(PullView, data)
    kept = f"; {size(one.done)} of {size(one.total)} are kept" if one.total else ""
    out.line(f"The pull of {one.name} was cancelled{kept}. Go on with: ctl pull {one.name}")
    return 0


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL|hf:OWNER/REPO[:QUANT]", nargs="?", help="without: what is pulled"
    )
    parser.add_argument("--no-wait", action="store_true", help="begin, and do not wait for the end")
    parser.add_argument("--cancel", action="store_true", help="end its download; what came is kept")


COMMANDS: Final = {
    "pull": Command(
        summary="download a model's files and wait for the end; alone: what is being downloaded",
        text="The daemon downloads: Ctrl-C ends the waiting, not the download, and so does a\n"
        "closed terminal. It goes on where it was after a break, a stop of the daemon, or\n"
        "--cancel. Files are kept where other programs look for them, too (HF_HUB_CACHE).\n"
        "Private and gated models need the daemon to have a token (HF_TOKEN, hf auth login).",
        examples=(
            ("ctl pull qwen3-coder", "a model of yours, or a preset"),
            ("ctl pull hf:unsloth/gemma-3-4b-it-GGUF:Q4_K_M", "what nobody has configured"),
            ("ctl pull qwen3-coder --no-wait", "begin, and come back at once"),
            ("ctl pull", "what is being downloaded, and how far it is"),
            ("ctl pull qwen3-coder --cancel", "end it; what came is kept"),
        ),
        run=pull,
        arguments=_arguments,
    ),
}
