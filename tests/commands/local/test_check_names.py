from __future__ import annotations

from pathlib import Path

import pytest

from control_api.commands.local import check_names


def program(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def test_ours_come_first_also_through_links(tmp_path: Path) -> None:
    own = program(tmp_path / "env", *check_names.PROGRAMS)
    (found,) = check_names.check_programs(own, str(own))
    assert found.verdict == "ok"
    links = tmp_path / "links"
    links.mkdir()
    for name in check_names.PROGRAMS:
        (links / name).symlink_to(own / name)
    (found,) = check_names.check_programs(own, str(links))
    assert found.verdict == "ok"


def test_another_program_of_the_name(tmp_path: Path) -> None:
    own = program(tmp_path / "env", *check_names.PROGRAMS)
    other = program(tmp_path / "other", "ctl")
    (found,) = check_names.check_programs(own, f"{other}:{own}")
    assert found.verdict == "warn"
    assert str(other / "ctl") in found.text
    assert found.fix.startswith("Use `modelport`")
    program(other, "modelport")
    first, _ = check_names.check_programs(own, f"{other}:{own}")
    assert first.fix.startswith(f"Use `{own}/ctl`")


def test_not_on_path_and_not_installed(tmp_path: Path) -> None:
    own = program(tmp_path / "env", *check_names.PROGRAMS)
    (found,) = check_names.check_programs(own, str(tmp_path))
    assert (found.verdict, found.text) == ("warn", "not on PATH: ctl, modelport, modelportd")
    (found,) = check_names.check_programs(tmp_path, str(own))
    assert (found.verdict, found.text) == ("ok", "run from a checkout, not installed")


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    assert check_names._real(tmp_path / "a") == tmp_path / "a"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_files_that_were_put_aside(tmp_path: Path, count: int) -> None:
    for number in range(count):
        (tmp_path / f"ladder.json.corrupt-{number}").touch()
    found = list(check_names.check_leftovers([tmp_path, tmp_path / "none"]))
    assert [check.verdict for check in found] == ["warn"] * bool(count)
    if count:
        assert "ladder.json.corrupt-0" in found[0].text
        assert ("and 2 more" in found[0].text) == (count == 5)
