"""Finding programs, and remembering what they said."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from daemon.core.problems import ProblemError
from daemon.engines import binaries
from daemon.engines.binaries import Facts, Inspector

FACTS = Facts("1", ("-m",), ("cuda",))


def never() -> Facts | None:
    raise AssertionError("it was asked again")


def test_answers_are_kept_across_restarts(tmp_path: Path) -> None:
    program, cache = tmp_path / "program", tmp_path / "deep" / "cache.json"
    program.write_text("x")
    assert Inspector(cache).facts(program, lambda: FACTS) == FACTS
    assert Inspector(cache).facts(program, never) == FACTS
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert list(cache.parent.iterdir()) == [cache]


def test_a_changed_file_is_asked_and_its_old_answer_dropped(tmp_path: Path) -> None:
    program, cache = tmp_path / "program", tmp_path / "cache.json"
    program.write_text("x")
    inspector = Inspector(cache)
    inspector.facts(program, lambda: FACTS)
    os.utime(program, ns=(1, 1))
    newer = Facts("2")
    assert inspector.facts(program, lambda: newer) == newer
    assert [facts["version"] for facts in json.loads(cache.read_text()).values()] == ["2"]


def test_a_link_that_points_elsewhere_now_is_asked(tmp_path: Path) -> None:
    old, new, link = (tmp_path / name for name in ("old", "new", "link"))
    for file in (old, new):
        file.write_text("x")
        os.utime(file, ns=(1, 1))
    link.symlink_to(old)
    inspector = Inspector()
    inspector.facts(link, lambda: FACTS)
    link.unlink()
    link.symlink_to(new)
    assert inspector.facts(link, lambda: Facts("2")) == Facts("2")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": 1}', '{"a": {"version": "1"}}', "\xff\xfe",
             '{"a": {"version": "1", "flags": [1], "accelerators": []}}'],
)  # fmt: skip
def test_a_broken_cache_is_no_error(tmp_path: Path, text: str) -> None:
    program, cache = tmp_path / "program", tmp_path / "cache.json"
    program.write_text("x")
    cache.write_text(text, encoding="latin-1")
    assert Inspector(cache).facts(program, lambda: FACTS) == FACTS
    assert Inspector(cache).facts(program, never) == FACTS


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("x")
    assert Inspector(program / "below-a-file").facts(program, lambda: FACTS) == FACTS


def test_one_that_gave_no_answer_is_asked_once(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("x")
    inspector = Inspector(tmp_path / "cache.json")
    assert inspector.facts(program, lambda: None) is None
    assert inspector.facts(program, never) is None
    assert Inspector(tmp_path / "cache.json").facts(program, lambda: FACTS) == FACTS


def test_a_program_that_hangs_is_given_up() -> None:
    assert Inspector(None, 0.05).output(("/bin/sleep", "10"), {}) is None


def test_a_program_that_cannot_run_gives_nothing() -> None:
    assert Inspector().output(("/no/such/program",), {}) is None


def test_both_streams_are_read_whatever_the_exit_status() -> None:
    said = Inspector().output(("/bin/sh", "-c", "echo out; echo err >&2; exit 3"), os.environ)
    assert said == "out\nerr\n"


def test_the_current_folder_is_never_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert binaries.look_up("llama-server", {"PATH": "", "HOME": "/nowhere"}) is None
    assert binaries.look_up("llama-server", {}) is None


def test_the_homes_own_programs_are_found_below_a_short_path(tmp_path: Path) -> None:
    program = tmp_path / ".local" / "bin" / "some-engine"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert binaries.look_up("some-engine", {"PATH": "/bin", "HOME": str(tmp_path)}) == program


def test_python_beside_a_script_is_that_of_its_environment(tmp_path: Path) -> None:
    home = tmp_path / "env" / "bin"
    home.mkdir(parents=True)
    (home / "python").symlink_to(sys.executable)
    (home / "engine").write_text("x")
    link = tmp_path / "engine"
    link.symlink_to(home / "engine")
    assert binaries.python_beside(link) == home / "python"
    (home / "python").unlink()
    assert binaries.python_beside(link) is None


def test_home_is_understood_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "engine").write_text("x")
    assert binaries.named_path("vllm", {"path": "~/engine"}) == tmp_path / "engine"
    assert binaries.named_path("vllm", {"path": None}) is None
    with pytest.raises(ProblemError, match="ctl engine install vllm"):
        binaries.named_path("vllm", {"path": "~/other"})
