"""``memory``: what the GPU of a Mac may take, raised and put back. Runs sudo, once, when told."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from control_api.client import SLOW_SECONDS, Client, RefusedError, UnreachableError
from control_api.commands.asking import agreed, need_somebody, terminal
from control_api.commands.command import Command
from control_api.commands.local.settings import add_config_flag, find_paths
from control_api.commands.output import Out

if TYPE_CHECKING:
    from daemon.machine.gpu_limit import Plan


def raise_limit(args: Namespace, out: Out) -> int:
    from daemon.machine import gpu_limit

    state = find_paths(args.config).state_dir
    plan = gpu_limit.plan_raise(args.to, state, platform=sys.platform, run=gpu_limit.run_program)
    return _carry_out(plan, args, out)


def raise_as(command: Sequence[str], out: Out) -> None:
    """Carry out the line that ``ctl load`` has shown and the user has chosen."""
    made = ArgumentParser()
    _raise_arguments(made)
    args = made.parse_args(["--to", command[-1].partition("=")[2], "--yes"])
    args.json = False
    raise_limit(args, out)


def restore(args: Namespace, out: Out) -> int:
    from daemon.machine import gpu_limit

    state = find_paths(args.config).state_dir
    plan = gpu_limit.plan_restore(state, platform=sys.platform, run=gpu_limit.run_program)
    return _carry_out(plan, args, out)


def _carry_out(plan: Plan, args: Namespace, out: Out) -> int:
    from daemon.machine import gpu_limit

    change = f"{gpu_limit.describe(plan.old)} -> {gpu_limit.describe(plan.new)}"
    if not args.yes and not _agreed(plan, change, out):
        out.note("Nothing was changed.")
        return 1
    gpu_limit.apply(
        plan,
        find_paths(args.config).state_dir,
        run=gpu_limit.run_program,
        interactive=terminal(),
    )
    if out.json:
        out.value(_facts(plan))
        return 0
    out.line(f"GPU limit: {change}")
    if plan.new != plan.before:
        out.line("It holds until this Mac restarts; `ctl memory restore` puts it back.")
    _tell_daemon(out)
    return 0


def _tell_daemon(out: Out) -> None:
    try:
        Client().post("/reload", seconds=SLOW_SECONDS)
    except UnreachableError:
        return  # it will see it when it starts
    except RefusedError as error:
        out.note(f"The daemon goes by the old limit: {error.message} {error.hint}")
        return
    out.line("The daemon counts with it.")


def _facts(plan: Plan) -> dict[str, Any]:
    return {"old_mb": plan.old, "new_mb": plan.new, "restores_to_mb": plan.before}


def _agreed(plan: Plan, change: str, out: Out) -> bool:
    """Ask on the terminal. Raises ``RefusedError`` where there is none."""
    line = " ".join(plan.argv)
    need_somebody(f"{line} changes the system", "Say --yes to have it run.", out)
    out.note(f"GPU limit: {change}")
    out.note(f"This runs: {line}")
    return agreed("Go on?", out)


def megabytes(text: str) -> int:
    """A limit as people write it: ``20480`` (MiB, as sysctl has it) or ``20GiB``."""
    from daemon.core.units import MIB, parse_bytes

    if text.isascii() and text.isdecimal() and len(text) <= 9:
        return int(text)
    try:
        return parse_bytes(text) // MIB
    except ValueError as error:
        raise ArgumentTypeError(f"{error}, or mebibytes such as 20480") from None


def _yes(parser: ArgumentParser) -> None:
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    add_config_flag(parser)


def _raise_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--to",
        type=megabytes,
        metavar="N",
        help="the new limit in MiB, or as 20GiB; else the most that leaves the system enough",
    )
    _yes(parser)


COMMANDS: Final = {
    "memory": Command(
        summary="what the GPU of a Mac may take of its memory",
        examples=(
            ("ctl memory raise-gpu-limit --to 20GiB", "until the Mac restarts"),
            ("ctl memory restore", "as it was"),
        ),
        subcommands={
            "raise-gpu-limit": Command(
                summary="raise the limit of what the GPU of a Mac may take, with sudo",
                text="It sets iogpu.wired_limit_mb, which is gone when the Mac restarts.",
                examples=(
                    ("ctl memory raise-gpu-limit", "as far as the system can spare"),
                    ("ctl memory raise-gpu-limit --to 20480 --yes", "in MiB, without a question"),
                ),
                run=raise_limit,
                arguments=_raise_arguments,
            ),
            "restore": Command(
                summary="put the limit back to what it was before ctl raised it",
                examples=(("ctl memory restore", ""),),
                run=restore,
                arguments=_yes,
            ),
        },
    ),
}
