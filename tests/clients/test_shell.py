"""The lines for ``eval``, as a shell reads them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from control_api.clients import shell
from control_api.clients.registry import CLIENTS
from control_api.clients.values import File, Plan, Served, Wish

WISH = Wish(url="http://127.0.0.1:8123", model=Served("it's a; $(name)", 4096))
SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


def after(plan: Plan, folder: Path) -> dict[str, str]:
    """The environment that a shell has after these lines. ``folder``: where theirs are made."""
    lines = "\n".join(shell.lines(plan, "it"))
    script = f"{lines}\nexec python3 -I -S -c '{SHOW}'"
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", script],
        env={
            "PATH": "/usr/bin:/bin:/usr/local/bin",
            "OPENAI_API_KEY": "sk-REAL",
            "HOME": "/h",
            "TMPDIR": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", CLIENTS)
def test_the_environment_is_the_plans(name: str, tmp_path: Path) -> None:
    program = CLIENTS[name]
    wish = replace(WISH, folder=shell.FOLDER) if program.files_needed else WISH
    plan = program.plan(wish)
    found = after(plan, tmp_path)
    assert "sk-REAL" not in found.values()
    for variable, value in plan.env.items():
        if not value.startswith(shell.FOLDER):
            assert found[variable] == value


def test_files_are_made_in_a_new_folder() -> None:
    text = "it's $HOME `x`\n\\ two\n"
    plan = Plan(files=(File("a/b.json", text),), env={"X": f"{shell.FOLDER}/a b"})
    lines = shell.lines(plan, "it")
    script = (
        "\n".join(lines)
        + '\ncat "$MODELPORT_CLIENT/a/b.json"; echo "$X"; rm -r "$MODELPORT_CLIENT"'
    )
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", script], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.startswith(text)
    assert done.stdout.endswith("/a b\n")


def test_what_is_run_then_is_a_comment() -> None:
    plan = Plan(argv=("--model", "a b"), notes=("Mind this.",))
    assert shell.lines(plan, "it") == ["# then: it --model 'a b'", "# Mind this."]
