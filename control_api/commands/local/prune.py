"""``prune``: weights that nobody uses, old versions of them, downloads that were given up."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from control_api.commands.asking import agreed, nobody
from control_api.commands.command import Command, whole
from control_api.commands.local.settings import add_config_flag, tell_daemon
from control_api.commands.local.weights import Shelf
from control_api.commands.output import Out, size

if TYPE_CHECKING:
    from daemon.downloads.pruning import Item

DAYS: Final = 30
_WHY: Final = {
    "unused": "unused for {days}",
    "old": "a newer version is here",
    "partial": "a download that did not end",
}


def prune(args: Namespace, out: Out) -> int:
    from daemon.downloads.cache import remove, with_projectors

    shelf = Shelf(args.config)
    items = _look(shelf, args)
    going = [item for item in items if not item.kept]
    if out.json and (args.dry_run or not args.yes or not going):
        out.value(_json(items, 0, dry_run=True))
        return 0
    if not out.json:
        _show(items, args, out)
    if args.dry_run or not going:
        return 0
    if not args.yes and not _asked(going, out):
        return 0
    uses = shelf.uses()
    freed, troubles = 0, []
    for item in going:
        files = set(item.files) if item.kind == "partial" else with_projectors(item.files, uses)
        try:
            freed += remove(files, shelf.cache)
        except OSError as error:
            troubles.append(f"{item.name}: {error}")
    told = any(item.models for item in going) or bool(shelf.now.loaded)
    if told:
        tell_daemon(shelf.paths.config_file, out)
    if out.json:
        out.value({**_json(items, freed, dry_run=False), "troubles": troubles})
    else:
        out.line(f"freed {size(freed)}")
        for trouble in troubles:
            out.note(f"! {trouble}")
    return 1 if troubles else 0


def _look(shelf: Shelf, args: Namespace) -> list[Item]:
    from daemon.downloads import pulled, used
    from daemon.downloads.cache import holdings, partials, repositories
    from daemon.downloads.locate import storage
    from daemon.downloads.pruning import Facts, choose

    ours = set(pulled.Pulled(shelf.paths.state_dir / pulled.FILE).folders())
    repos = [
        repo
        for repo in repositories(shelf.cache)
        if args.all or storage(repo, shelf.cache).absolute() in ours
    ]
    facts = Facts(
        time.time(),
        shelf.uses(),
        used.Used(shelf.paths.state_dir / used.FILE).times(),
        shelf.pulling(),
    )
    return choose(
        [holding for repo in repos for holding in holdings(repo, shelf.cache)],
        [partial for repo in repos for partial in partials(repo, shelf.cache)],
        facts,
        days=args.days,
        configured=args.configured,
    )


def _asked(going: Sequence[Item], out: Out) -> bool:
    if nobody(out):
        out.note("Nothing was freed, as nobody is here to be asked: --yes frees it.")
        return False
    if agreed(f"Free {size(sum(item.size for item in going))}?", out):
        return True
    out.line("Nothing was freed.")
    return False


def _show(items: Sequence[Item], args: Namespace, out: Out) -> None:
    going = [item for item in items if not item.kept]
    if going:
        rows = [(item.name, size(item.size), _why(item), _names(item)) for item in going]
        out.table(("WHAT", "SIZE", "WHY", "CONFIGURED AS"), rows)
    else:
        whose = "" if args.all else " of what modelport has pulled (--all: of the whole cache)"
        out.line(f"There is nothing to free{whose}.")
    for item in items:
        if item.kept:
            more = "; --configured frees it, too" if "configured" in item.kept else ""
            out.line(f"stays  {item.name}  {size(item.size)}  {_why(item)}, but {item.kept}{more}")


def _why(item: Item) -> str:
    days = f"{item.days} day{'s' if item.days != 1 else ''}"
    if item.kind == "unused" and item.days == 0:
        return "used today"
    return _WHY[item.kind].format(days=days)


def _names(item: Item) -> str:
    return ", ".join(item.models) or "-"


def _json(items: Sequence[Item], freed: int, *, dry_run: bool) -> dict[str, Any]:
    told = [
        {
            "kind": item.kind,
            "name": item.name,
            "size": item.size,
            "days": item.days,
            "models": list(item.models),
            "kept": item.kept or None,
            "files": [str(path) for path in item.files],
        }
        for item in items
    ]
    going = sum(item.size for item in items if not item.kept)
    return {"items": told, "could_free": going, "freed": freed, "dry_run": dry_run}


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--days",
        type=whole(0, 99_999, "days"),
        default=DAYS,
        metavar="N",
        help=f"unused for so long (default: {DAYS})",
    )
    parser.add_argument("--dry-run", action="store_true", help="show it, and free nothing")
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    parser.add_argument(
        "--configured", action="store_true", help="also models that are in the configuration"
    )
    parser.add_argument(
        "--all", action="store_true", help="also what other programs have put into the cache"
    )
    add_config_flag(parser)


COMMANDS: Final = {
    "prune": Command(
        summary="free the disk of weights that nobody uses, old versions, and broken downloads",
        text="Shows what could go, and asks. Of the cache that it shares with other programs it\n"
        "looks only at what modelport has pulled, unless --all is given. What is loaded,\n"
        "pinned or being pulled stays always, what is configured unless --configured.",
        examples=(
            ("ctl prune", "what was not used for 30 days: shows it, and asks"),
            ("ctl prune --days 7 --yes", "a week, and do not ask"),
            ("ctl prune --dry-run --json", "for a program: free nothing"),
            ("ctl prune --all --days 90", "what other programs have downloaded, too"),
        ),
        run=prune,
        arguments=_arguments,
    ),
}
