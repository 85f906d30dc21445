from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from control_api.commands.local.aside import own_folder, sweep


def dead() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(30)
    return process.pid


def test_ours_is_gone_afterwards_and_what_was_left_before(tmp_path: Path) -> None:
    left, other = tmp_path / f"x-{dead()}-a", tmp_path / "x-notes-1"
    for folder in (left, other):
        (folder / "deep").mkdir(parents=True)
    with own_folder(tmp_path, "x-") as made:
        assert made.name.startswith(f"x-{os.getpid()}-")
        assert made.stat().st_mode & 0o777 == 0o700
        assert not left.exists()
        sweep(tmp_path, "x-")
        assert made.exists(), "its launcher lives"
    assert list(tmp_path.iterdir()) == [other]


def test_what_is_another_users_or_a_link_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aim, pid = tmp_path / "aim", dead()
    aim.mkdir()
    (tmp_path / f"x-{pid}-link").symlink_to(aim)
    sweep(tmp_path, "x-")
    assert (tmp_path / f"x-{pid}-link").is_symlink()
    (tmp_path / f"x-{pid}-theirs").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    sweep(tmp_path, "x-")
    assert (tmp_path / f"x-{pid}-theirs").is_dir()
