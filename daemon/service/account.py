"""The account that a service for the whole machine runs as, on Linux."""

from __future__ import annotations

import grp
import pwd
from dataclasses import dataclass
from typing import Final

from daemon.config.paths import GROUP
from daemon.core.problems import Code, Problem, ProblemError
from daemon.service.programs import Run, run_program

HOME: Final = "/var/lib/modelport"
GPU_GROUPS: Final = ("video", "render")
"""Who may use the devices of graphics cards, as distributions have it."""


@dataclass(frozen=True, slots=True)
class Account:
    """``made``: by us, so an uninstall removes it."""

    user: str
    group: str
    made_user: bool = False
    made_group: bool = False


def exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def group_exists(group: str) -> bool:
    try:
        grp.getgrnam(group)
    except KeyError:
        return False
    return True


def ensure(user: str, run: Run = run_program) -> Account:
    """The group whose members may control the daemon, and the account ``user``, which is made only
    if it has our own name. It is let to graphics cards. Raises ProblemError."""
    made_group = made_user = False
    if not group_exists(GROUP):
        _must(["groupadd", "--system", GROUP], run)
        made_group = True
    if not exists(user):
        if user != GROUP:
            raise _problem(f"There is no user {user}.", "Leave --account out: one is made.")
        shell = "/usr/sbin/nologin"
        words = ["--system", "--gid", GROUP, "--home-dir", HOME, "--no-create-home"]
        _must(["useradd", *words, "--shell", shell, user], run)
        made_user = True
    if made_user:
        there = [group for group in GPU_GROUPS if group_exists(group)]
        if there:
            _must(["usermod", "--append", "--groups", ",".join(there), user], run)
    return Account(user, GROUP, made_user, made_group)


def remove(user: str, group: str, run: Run = run_program) -> list[str]:
    """What of it was made by us ("" for none); what could not be removed, in words."""
    troubles = []
    for program, name, there in (("userdel", user, exists), ("groupdel", group, group_exists)):
        if name and there(name) and (done := run([program, name])).code != 0:
            troubles.append(f"{program} {name}: {done.said}")
    return troubles


def _must(argv: list[str], run: Run) -> None:
    done = run(argv)
    if done.code != 0:
        raise _problem(f"{' '.join(argv)}: {done.said}", "Make the account, then try again.")


def _problem(message: str, hint: str) -> ProblemError:
    return ProblemError(Problem(Code.INVALID_REQUEST, message, hint))
