"""The command line of today, but for where an upgrade has put our programs."""

from __future__ import annotations

import pytest

from daemon.backends.moved import same_command

ROOT = "/home/u/.local/share/modelport/service"
A = (f"{ROOT}/env-1.0-aa/bin/python", "-P", f"{ROOT}/env-1.0-aa/lib/python3.11/runner.py")
B = (f"{ROOT}/env-77/bin/python", "-P", f"{ROOT}/env-77/lib/python3.11/runner.py")
MACHINE = "/usr/local/lib/modelport"
REST = ("--ctx", "512")


def test_another_environment_of_the_service_is_the_same() -> None:
    assert same_command([*A, *REST], [*B, *REST], B)
    assert not same_command([*A, *REST], [*B, "--ctx", "513"], B)
    assert not same_command([*A, *REST], [*B, *REST, "-t"], B)


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("/opt/homebrew/Cellar/modelport/1.0/libexec/bin/python",
         "/opt/homebrew/Cellar/modelport/1.1/libexec/bin/python", True),
        (f"{MACHINE}/env-a/bin/python", f"{MACHINE}/env-b/bin/python", True),
        ("/usr/bin/llama-server", "/usr/local/bin/llama-server", False),
        ("/x/Cellar/other/1.0/bin/a", "/x/Cellar/other/1.1/bin/a", False),
        (f"{ROOT}/env-a/bin/python", f"{ROOT}/env-b/bin/python3", False),
        ("/evil/env-a/bin/python", "/home/env-b/bin/python", False),
    ],
)  # fmt: skip
def test_only_what_an_upgrade_moves(one: str, two: str, same: bool) -> None:
    assert same_command([one, *REST], [two, *REST], [two]) is same


def test_words_behind_the_program_are_taken_as_they_are() -> None:
    model = f"{ROOT}/env-a/x.gguf"
    assert not same_command(["p", model], ["p", model.replace("env-a", "env-b")], ["p"])
