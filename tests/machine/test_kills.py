"""The kernel's count of processes that it killed for want of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.machine.kills import kernel_kills


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("pgfault 9\noom_kill 3\nnuma_hit 5\n", 3),
        ("oom_kill_disable 0\npgfault 9\n", None),
        ("oom_kill many\n", None),
        ("\xff\x00", None),
        ("", None),
    ],
)
def test_the_count(text: str, count: int | None, tmp_path: Path) -> None:
    path = tmp_path / "vmstat"
    path.write_text(text, "latin-1")
    assert kernel_kills(path) == count


def test_a_system_without_one(tmp_path: Path) -> None:
    assert kernel_kills(tmp_path / "none") is None


def test_this_machine() -> None:
    found = kernel_kills()
    assert found is None or found >= 0
