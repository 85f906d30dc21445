"""``add``, ``set``, ``rm``: models in the configuration file; comments are kept, weights too."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, Final

from control_api.client import RefusedError
from control_api.commands.command import Command
from control_api.commands.local.estimate import read_weights, summary
from control_api.commands.local.settings import (
    add_config_flag,
    config_file,
    report_change,
    tell_daemon,
)
from control_api.commands.output import Out, size
from control_api.places import absolute

_FORMAT: Final = re.compile(r"[-._](?:GGUF|MLX)$", re.IGNORECASE)


def add(args: Namespace, out: Out) -> int:
    from daemon.config.edit import add_model

    entry, suggested = source_entry(args.source)
    if "path" in entry and not (args.engine or "").startswith("command"):
        weights = read_weights(Path(entry["path"]))
        out.note(f"{args.source}: {summary(weights)}")
    entry |= {
        "ctx": args.ctx,
        "slots": args.slots,
        "engine": args.engine,
        "aliases": args.alias or None,
    }
    entry = {key: value for key, value in entry.items() if value is not None}
    name, path = args.name or suggested, config_file(args.config)
    add_model(path, name, entry)
    return _done(out, f"added {name}", path, {"model": name, "entry": entry})


def set_values(args: Namespace, out: Out) -> int:
    from daemon.config.edit import set_value

    path = config_file(args.config)
    set_value(path, args.model, args.pairs)
    return _done(out, f"set {args.model}", path, {"model": args.model, "set": args.pairs})


def remove(args: Namespace, out: Out) -> int:
    from daemon.config.edit import remove_model

    path = config_file(args.config)
    if args.weights:
        return _remove_weights(args, path, out)
    if args.yes:
        raise RefusedError("invalid_request", "--yes is for --weights: nothing else is asked.")
    remove_model(path, args.model)
    return _done(out, f"removed {args.model}", path, {"model": args.model})


def _remove_weights(args: Namespace, path: Path, out: Out) -> int:
    """The entry, where there is one, and the files that no other model uses."""
    from control_api.commands.local.weights import remove_weights
    from daemon.config.edit import remove_model

    removal = remove_weights(args.model, yes=args.yes, config=args.config, out=out)
    if removal.listed:
        remove_model(path, removal.name)
    freed = removal.do()
    if not out.json:
        out.line(f"freed {size(freed)} of {removal.name}")
    facts = {"model": removal.name, "freed": freed, "files": [str(p) for p in removal.files]}
    if removal.listed:
        return _done(out, f"removed {removal.name}", path, facts)
    reloaded = tell_daemon(path, out)
    if out.json:
        out.value({**facts, "file": str(path), "reloaded": reloaded})
    return 0


def _done(out: Out, said: str, path: Path, facts: dict[str, Any]) -> int:
    reloaded = tell_daemon(path, out)
    if out.json:
        out.value({**facts, "file": str(path), "reloaded": reloaded})
    else:
        report_change(out, said, path, reloaded)
    return 0


def source_entry(source: str) -> tuple[dict[str, Any], str]:
    """The keys that say where the weights are, and a name for them. Raises ``RefusedError``."""
    if source.startswith("hf:"):
        repo = source.removeprefix("hf:")
        return {"hf": repo}, suggest_name(repo.partition(":")[0].rpartition("/")[2])
    path = absolute(source)
    if not path.exists():
        from daemon.config.presets import load_presets

        if source in load_presets():
            return {"preset": source}, source
        raise RefusedError(
            "invalid_request",
            f"There is no file or folder {path}.",
            "Give a path, or hf:OWNER/REPO[:QUANT], or the name of a preset (ctl ls --presets).",
        )
    return {"path": str(path)}, suggest_name(path.stem if path.is_file() else path.name)


def suggest_name(text: str) -> str:
    """A short name: without the shard's number, the quantisation and the format, in lower case."""
    from daemon.downloads.choose import series

    text = _FORMAT.sub("", series(text))
    return re.sub(r"[^a-z0-9._+-]+", "-", text.lower()).strip("-._+") or "model"


def _add_arguments(parser: ArgumentParser) -> None:
    from control_api.commands.load import context_length

    parser.add_argument(
        "source", metavar="PATH|hf:REPO[:QUANT]", help="a file, a folder, or a repository"
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="its name (default: from the file)")
    parser.add_argument(
        "--ctx", type=context_length, metavar="N", help="context in tokens (or 32k)"
    )
    parser.add_argument("--slots", type=int, metavar="N", help="requests that it serves at once")
    parser.add_argument("--engine", metavar="ENGINE", help="which engine runs it")
    parser.add_argument(
        "--alias", metavar="NAME", action="append", help="another name; may be repeated"
    )
    add_config_flag(parser)


def _set_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="its name in the configuration")
    parser.add_argument(
        "pairs", metavar="KEY=VALUE", nargs="+", help="what to set; KEY= removes the key"
    )
    add_config_flag(parser)


def _rm_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="its name in the configuration")
    parser.add_argument(
        "--weights", action="store_true", help="also the files that modelport has downloaded for it"
    )
    parser.add_argument("--yes", "-y", action="store_true", help="with --weights: do not ask")
    add_config_flag(parser)


COMMANDS: Final = {
    "add": Command(
        summary="add a model to the configuration; its weights stay where they are",
        text="A running daemon is told at once. Without one, the file alone is changed.",
        examples=(
            ("ctl add ~/models/qwen3-coder-Q4_K_M.gguf", "named qwen3-coder"),
            ("ctl add hf:unsloth/gemma-3-4b-it-GGUF:Q4_K_M gemma", "from Hugging Face"),
            ("ctl add ./big.gguf big --ctx 64k --alias gpt-4o", "with settings"),
        ),
        run=add,
        arguments=_add_arguments,
    ),
    "set": Command(
        summary="change settings of a model in the configuration",
        text="`ctl config schema` lists the keys. Comments in the file are kept.",
        examples=(
            ("ctl set gemma ctx=65536 keep_alive=1h", ""),
            ("ctl set gemma pin=true", "started at boot, never evicted"),
            ("ctl set gemma ctx=", "back to the default"),
        ),
        run=set_values,
        arguments=_set_arguments,
    ),
    "rm": Command(
        summary="remove a model from the configuration; its weights stay unless --weights is given",
        text="With --weights its files leave the cache of downloads: only those that no other\n"
        "configured model uses, and never a loaded model's. Also of a preset, or of\n"
        "hf:OWNER/REPO:QUANT, which have no entry. Files of your own (path) are not touched.",
        examples=(
            ("ctl rm gemma", "the entry alone"),
            ("ctl rm gemma --weights", "the files, too: shows them, and asks"),
            ("ctl rm hf:unsloth/gemma-3-4b-it-GGUF:Q4_K_M --weights --yes", "a pull without entry"),
        ),
        run=remove,
        arguments=_rm_arguments,
    ),
}
