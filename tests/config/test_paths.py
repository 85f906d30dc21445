from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.paths import Paths, ensure_private, safe_name
from daemon.core.problems import Code, ProblemError


def places(folder: Path, **more: str) -> dict[str, str]:
    kinds = ("STATE", "LOG", "CACHE", "RUNTIME")
    return {f"MODELPORT_{kind}_DIR": str(folder / kind.lower()) for kind in kinds} | more


def test_variables_move_everything(tmp_path: Path) -> None:
    environ = places(tmp_path, MODELPORT_CONFIG=str(tmp_path / "c.toml"))
    paths = Paths.find(environ)
    assert (paths.config_file, paths.config_named) == (tmp_path / "c.toml", True)
    assert paths.config_dir == tmp_path
    assert paths.control_socket == tmp_path / "runtime/control.sock"
    assert paths.front_socket == tmp_path / "runtime/front.sock"
    assert paths.lock == tmp_path / "runtime/lock"
    assert paths.backends_dir == tmp_path / "runtime/b"
    assert paths.daemon_json == tmp_path / "state/daemon.json"
    assert paths.daemon_log == tmp_path / "log/modelportd.log"
    assert paths.cache_dir == tmp_path / "cache"
    flag = Paths.find(environ, config=tmp_path / "other.toml")
    assert flag.config_file == tmp_path / "other.toml"


def test_sockets_are_in_the_session_or_below_the_state_never_in_tmp(tmp_path: Path) -> None:
    state = {"MODELPORT_STATE_DIR": str(tmp_path / "s")}
    session = Paths.find({**state, "XDG_RUNTIME_DIR": "/run/user/1000"})
    assert session.runtime_dir == Path("/run/user/1000/modelport")
    assert Paths.find(state).runtime_dir == tmp_path / "s/run"
    assert (
        Paths.find({**state, "XDG_RUNTIME_DIR": "not/absolute"}).runtime_dir == tmp_path / "s/run"
    )


def test_without_variables_the_platform_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    paths = Paths.find({})
    assert not paths.config_named
    for path in (paths.config_file, paths.state_dir, paths.log_dir, paths.cache_dir):
        assert path.is_relative_to("/home/me")
        assert "modelport" in path.parts
    assert paths.config_file.name == "config.toml"


def test_home_is_filled_in_and_paths_are_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    paths = Paths.find({"MODELPORT_CONFIG": "~/c.toml", "MODELPORT_LOG_DIR": "logs"})
    assert paths.config_file == Path("/home/me/c.toml")
    assert paths.log_dir == Path.cwd() / "logs"


def test_the_home_of_nobody_known_is_a_name_like_any_other() -> None:
    paths = Paths.find({}, config=Path("~nobody-of-that-name/c.toml"))
    assert paths.config_file == Path.cwd() / "~nobody-of-that-name/c.toml"


def test_directories_are_made_for_us_alone(tmp_path: Path) -> None:
    paths = Paths.find(places(tmp_path))
    paths.ensure()
    paths.ensure()
    for path in (paths.state_dir, paths.model_logs_dir, paths.cache_dir, paths.backends_dir):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702, 0o1777])
def test_a_directory_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(ProblemError) as caught:
        ensure_private(path)
    assert caught.value.problem.code is Code.CONFIG_INVALID
    assert caught.value.problem.hint == f"chmod 700 {path}"


def test_a_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ProblemError, match="belongs to user"):
        ensure_private(tmp_path)


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        with pytest.raises(ProblemError, match="cannot be used"):
            ensure_private(path)


def test_a_socket_path_too_long_for_the_system_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    paths = Paths.find(places(tmp_path, MODELPORT_RUNTIME_DIR=str(deep)))
    with pytest.raises(ProblemError) as caught:
        paths.ensure()
    assert "MODELPORT_RUNTIME_DIR" in caught.value.problem.hint
    assert not deep.exists()


def test_backends_have_short_names_whatever_the_model_is_called(tmp_path: Path) -> None:
    paths = Paths.find(places(tmp_path))
    one, other = (paths.backend_stem("owner/" + "x" * 190, n) for n in (1, 2))
    assert one != other
    assert len(one.name) < 24
    assert one.parent == paths.backends_dir


def test_plain_names_stay_readable() -> None:
    assert safe_name("qwen3-coder") == "qwen3-coder"
    assert safe_name("owner/Model:30b").startswith("owner_model_30b-")
    assert Paths.find({}).model_log("gemma").name == "gemma.log"


names = st.text(max_size=40) | st.text(alphabet="aA./\\-0:", max_size=12)


@given(names, names)
def test_any_name_gives_a_safe_file_of_its_own(one: str, other: str) -> None:
    first, second = safe_name(one), safe_name(other)
    assert first.isascii()
    assert "/" not in first
    assert first[0] not in ".-_"
    assert len(first) <= 80
    if one != other:
        assert first.casefold() != second.casefold()
    else:
        assert first == second
