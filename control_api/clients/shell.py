"""A plan as lines for a shell (sh, bash, zsh)."""

from __future__ import annotations

import shlex
from typing import Final

from control_api.clients.values import Plan

FOLDER: Final = "$MODELPORT_CLIENT"
"""The throw-away folder of a plan that is only printed."""
_END: Final = "MODELPORT_END"


def lines(plan: Plan, program: str) -> list[str]:
    """To be given to ``eval``: real keys go, files are made in a new folder, variables are set.

    How the client is then started is a comment, and so are the notes.
    """
    found = []
    if plan.unset:
        found.append("unset " + " ".join(plan.unset))
    if plan.files:
        found.append(f'{FOLDER[1:]}="$(mktemp -d)"')
    for file in plan.files:
        path = f"{FOLDER}/{file.path}"
        found.append(f'mkdir -p "{path.rpartition("/")[0]}"')
        found.append(f"cat > \"{path}\" <<'{_END}'\n{file.text}{_END}")
    found += [f"export {name}={quoted(value)}" for name, value in plan.env.items()]
    words = " ".join([program, *(quoted(word) for word in plan.argv)])
    found.append(f"# then: {words}")
    found += [f"# {note}" for note in plan.notes]
    return found


def quoted(text: str) -> str:
    """One word; the folder stays a variable."""
    if not text.startswith(FOLDER):
        return shlex.quote(text)
    return f'"{FOLDER}"' + (shlex.quote(text[len(FOLDER) :]) if text != FOLDER else "")
