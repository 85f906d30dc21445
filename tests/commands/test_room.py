"""``ctl load`` where room is tight: a menu on a terminal, the safe choice elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from typing import Any

import pytest

from daemon.views import ChoiceView
from tests.commands.conftest import Ctl, argv_of, process_env
from tests.control_api.fake import FakeControl, FakeDaemon, fit_view

SHRINK = ChoiceView(
    key="shrink", text="A context of 32768 (14.0 GiB)", context=32768, fit="shrink", command=[]
)
UNPIN = ChoiceView(key="unpin", text="Unpin one of: embed", context=None, fit="", command=[])
IGNORE = ChoiceView(
    key="ignore", text="As it is, 2.0 GiB over", context=65536, fit="ignore", command=[]
)
TEXT = "qwen3-coder needs 17.0 GiB with a context of 65536, there is room for 15.0 GiB"


def tight(verdict: str, *choices: ChoiceView) -> Any:
    return fit_view(verdict=verdict, text=TEXT, choices=list(choices))


def test_what_fits_is_loaded_without_a_word(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    result = ctl("load", "qwen3-coder")
    assert result.code == 0
    assert fake.calls == [("load", "qwen3-coder", None)]


def test_without_a_terminal_it_shrinks_and_says_so(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.fits = tight("shrinks", SHRINK, IGNORE)
    result = ctl("load", "qwen3-coder")
    assert TEXT in result.err
    assert "It is loaded with a context of 32768." in result.err
    assert fake.calls == [("load", "qwen3-coder", 32768, "shrink")]


def test_a_context_that_was_written_is_not_changed(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.fits = tight("refused", SHRINK, IGNORE)
    assert TEXT in ctl("load", "qwen3-coder", "--ctx", "64k").err
    assert fake.calls == [("load", "qwen3-coder", 65536)]  # and the daemon refuses it


@pytest.mark.parametrize("words", [("--yes",), ("--fit", "ask")])
def test_unless_the_user_says_so(
    words: tuple[str, ...], ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.fits = tight("refused", SHRINK, IGNORE)
    ctl("load", "qwen3-coder", "--ctx", "64k", *words)
    assert fake.calls == [("load", "qwen3-coder", 32768, "shrink")]


@pytest.mark.parametrize("fit", ["shrink", "refuse", "ignore"])
def test_a_stated_fit_is_passed_on(
    fit: str, ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.fits = tight("refused", SHRINK, IGNORE)
    ctl("load", "qwen3-coder", "--ctx", "64k", "--fit", fit)
    assert fake.calls == [("load", "qwen3-coder", 65536, fit)]


def test_nothing_safe_is_left(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.fits = tight("refused", IGNORE)
    ctl("load", "qwen3-coder", "--yes")
    assert fake.calls == [("load", "qwen3-coder", None)]


def on_a_terminal(typed: str, *words: str) -> tuple[int, str]:
    """Run ``ctl load`` on a terminal of its own, type, and read what was shown."""
    main, side = pty.openpty()
    child = subprocess.Popen(
        argv_of("load", "qwen3-coder", *words),
        env=process_env(),
        stdin=side,
        stdout=side,
        stderr=side,
        close_fds=True,
    )
    os.close(side)
    shown, deadline = "", time.monotonic() + 40
    answers = list(typed.split("\n"))
    try:
        while time.monotonic() < deadline:
            try:
                shown += os.read(main, 4096).decode("utf-8", "replace")
            except OSError:  # the other end is closed
                break
            asked = shown.count("Choose [")
            if answers and asked > len(typed.split("\n")) - len(answers):
                os.write(main, (answers.pop(0) + "\n").encode())
        return child.wait(10), shown
    finally:
        child.kill()
        child.wait(5)
        os.close(main)


@pytest.mark.parametrize(
    ("typed", "call"),
    [
        ("", ("load", "qwen3-coder", 32768, "shrink")),
        ("1", ("load", "qwen3-coder", 32768, "shrink")),
        ("2", ("load", "qwen3-coder", 65536, "ignore")),
        ("9\nno\n2", ("load", "qwen3-coder", 65536, "ignore")),
    ],
)
def test_the_menu(typed: str, call: tuple[Any, ...], daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.fits = tight("shrinks", SHRINK, UNPIN, IGNORE)
    code, shown = on_a_terminal(typed)
    assert code == 0, shown
    assert fake.calls == [call]
    assert "1  A context of 32768 (14.0 GiB)" in shown
    assert "Or: Unpin one of: embed." in shown
    assert "3  Cancel" in shown


def test_cancelled(daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.fits = tight("shrinks", SHRINK, IGNORE)
    code, shown = on_a_terminal("3")
    assert (code, fake.calls) == (1, [])
    assert "Nothing was loaded." in shown


def test_enter_never_means_what_may_crash(daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.fits = tight("refused", IGNORE)
    code, _ = on_a_terminal("")
    assert (code, fake.calls) == (1, [])
