"""``search``: models on the hub that run here, their sizes, and whether they fit."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any, Final

from control_api.commands.command import Command, whole
from control_api.commands.output import Out, size

if TYPE_CHECKING:
    from daemon.downloads.search import Found

LIMIT: Final = 10
_FORMATS: Final = ("gguf", "mlx", "safetensors")
_ROOM: Final = 0.9  # of the budget, for the weights alone: the context takes the rest


def search(args: Namespace, out: Out) -> int:
    from control_api.commands.local.sizes import Here
    from daemon.downloads.search import search as ask

    other = "mlx" if sys.platform == "darwin" else "safetensors"
    formats = [args.format] if args.format else ["gguf", other]
    budget = Here(args.config).budget
    room = sum(budget.amounts.get(pool, 0) for pool in budget.main)
    found = ask(" ".join(args.words), formats, args.limit)
    if out.json:
        out.value({"budget": room, "models": [_json(one, room) for one in found]})
        return 0
    if not found:
        out.line(f"The hub has no {' or '.join(formats)} model of these words.")
        out.line("Fewer words find more: `ctl search qwen3 coder`.")
        return 0
    rows = [
        (
            one.repo + (" (gated)" if one.gated else ""),
            _count(one.downloads),
            one.format,
            _sizes(one),
            _fits(one, room),
        )
        for one in found
    ]
    out.table(("REPOSITORY", "DOWNLOADS", "FORMAT", "SIZE", f"FITS IN {size(room)}"), rows)
    first = next((one for one in found if one.sizes), found[0])
    quant = f":{best}" if (best := largest(one=first, room=room)) else ""
    out.line(f"Get one: ctl pull hf:{first.repo}{quant}")
    return 0


def largest(one: Found, room: int) -> str:
    """The quantisation that a pull should take here: the usual one, else the largest that fits."""
    fitting = [quant for quant, count in one.sizes.items() if count <= _ROOM * room]
    return one.best if one.best in fitting else (fitting[-1] if fitting else one.best)


def _sizes(one: Found) -> str:
    """``Q4_K_M 17.2 GiB (9.1 GiB to 61.1 GiB)``."""
    if not one.sizes:
        return "not told"
    if "" in one.sizes:
        return size(one.sizes[""])
    counts = list(one.sizes.values())
    best = f"{one.best} {size(one.sizes[one.best])}" if one.best else ""
    least, most = size(counts[0]), size(counts[-1])
    if least == most:
        return best or least
    return f"{best} ({least} to {most})" if best else f"{least} to {most}"


def _fits(one: Found, room: int) -> str:
    if not one.sizes:
        return "?"
    fitting = [quant for quant, count in one.sizes.items() if count <= _ROOM * room]
    if not fitting:
        return "no"
    return "yes" if len(fitting) == len(one.sizes) else f"up to {fitting[-1]}"


def _count(downloads: int) -> str:
    for limit, unit in ((1_000_000, "M"), (1000, "k")):
        if downloads >= limit:
            return f"{downloads / limit:.1f}{unit}"
    return str(downloads)


def _json(one: Found, room: int) -> dict[str, Any]:
    return {
        "repo": one.repo,
        "format": one.format,
        "downloads": one.downloads,
        "likes": one.likes,
        "gated": one.gated,
        "best": one.best or None,
        "sizes": dict(one.sizes),
        "fits": [quant for quant, count in one.sizes.items() if count <= _ROOM * room],
        "pull": f"hf:{one.repo}" + (f":{best}" if (best := largest(one, room)) else ""),
    }


def _arguments(parser: ArgumentParser) -> None:
    from control_api.commands.local.settings import add_config_flag

    parser.add_argument("words", metavar="WORDS", nargs="+", help="what its name has")
    parser.add_argument("--format", choices=_FORMATS, help="only this one")
    parser.add_argument(
        "--limit",
        type=whole(1, 100, "results"),
        default=LIMIT,
        metavar="N",
        help=f"how many (default: {LIMIT})",
    )
    add_config_flag(parser)


COMMANDS: Final = {
    "search": Command(
        summary="search the hub for models that run here, with sizes and whether they fit",
        text="Asks Hugging Face (HF_ENDPOINT), with your token if there is one. Fits means that\n"
        "the weights leave room for a context: `ctl estimate` knows more once it is here.",
        examples=(
            ("ctl search qwen3 coder 30b", "GGUF, and what else runs on this machine"),
            ("ctl search gemma --format mlx", "for a Mac's own engines"),
            ("ctl search llama 8b --json | jq -r '.models[].pull'", "what to pull"),
        ),
        run=search,
        arguments=_arguments,
    ),
}
