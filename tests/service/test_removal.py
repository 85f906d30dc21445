"""Removing what is ours, and nothing else."""

from __future__ import annotations

import ast
import importlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config.paths import Paths
from daemon.downloads import pulled
from daemon.service.removal import (
    KNOWN,
    Remover,
    Role,
    Target,
    away,
    links_into,
    matching,
    present,
    size,
    targets,
)

US = frozenset({os.geteuid()})
HOME = Path("/home/u")


def places(**moved: str) -> Paths:
    environ = {"XDG_RUNTIME_DIR": "/run/user/7"}
    named = {f"MODELPORT_{kind.upper()}_DIR": path for kind, path in moved.items()}
    return Paths.find({**environ, **named})


def test_default_places_go_whole_and_others_by_name() -> None:
    usual = places()
    found = targets(usual, usual, Path("/d"), home=HOME, purge=True)
    assert all(one.only is None for one in found)
    assert [one.role for one in found][-1] is Role.CONFIG
    moved = places(state="/srv/all", log="/srv/all")
    by_role = {one.role: one for one in targets(moved, usual, Path("/d"), home=HOME, purge=False)}
    assert by_role[Role.STATE].only == KNOWN["state"]
    assert by_role[Role.LOG].only == KNOWN["log"]
    assert by_role[Role.CACHE].only is None
    assert Role.CONFIG not in by_role


@pytest.mark.parametrize("folder", ["/home/u", "/home", "/"])
def test_a_home_never_goes(folder: str) -> None:
    odd = places(state=folder, log=folder, cache=folder, runtime=folder)
    for one in targets(odd, odd, Path("/d"), home=HOME, purge=True):
        assert one.only is not None or one.path not in (HOME, *HOME.parents)


NAMES = st.text("abc.", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
TREES = st.recursive(
    st.sampled_from(["file", "link out", "dead link", "link to a folder"]),
    lambda inner: st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def build(place: Path, tree: object, outside: Path) -> None:
    if isinstance(tree, dict):
        place.mkdir()
        for name, inner in tree.items():
            build(place / name, inner, outside)
    elif tree == "file":
        place.write_text("x")
    elif tree == "link out":
        place.symlink_to(outside / "precious")
    elif tree == "dead link":
        place.symlink_to(place.parent / "nothing")
    else:
        place.symlink_to(outside)


@given(tree=TREES)
@settings(deadline=None)
def test_all_of_it_goes_and_nothing_beyond(
    tmp_path_factory: pytest.TempPathFactory, tree: object
) -> None:
    place = tmp_path_factory.mktemp("tree")
    outside = place / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    ours = place / "ours"
    build(ours, tree, outside)
    assert size([ours]) > 0
    remover = Remover(US)
    assert remover.remove(Target(Role.STATE, ours)) == [ours]
    assert remover.troubles == []
    assert not os.path.lexists(ours)
    assert (outside / "precious").read_text() == "kept"
    assert remover.remove(Target(Role.STATE, ours)) == [], "a second time there is nothing"


def test_only_what_is_known_goes_where_others_may_live(tmp_path: Path) -> None:
    ours = ("learned.json", ".used.json.12", "incidents.jsonl", "x.json.corrupt-12", "clients")
    for name in ("notes.txt", *ours):
        (tmp_path / name).write_text("")
    remover = Remover(US)
    remover.remove(Target(Role.STATE, tmp_path, KNOWN["state"]))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "notes.txt").unlink()
    remover.remove(Target(Role.STATE, tmp_path, KNOWN["state"]))
    assert not tmp_path.exists(), "empty, it goes as well"


ROOT = Path(__file__).parents[2]
PLACE = re.compile(r"(state|cache|log|runtime)(_dir)?")
HUB = (ROOT / "daemon" / "downloads", ROOT / "daemon" / "discovery")  # their cache is the hub's


def written(path: Path) -> Iterator[tuple[str, str, str]]:
    """Names that a module joins to our folders: role, name, where."""
    tree = ast.parse(path.read_text("utf-8"))
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    names = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }

    def constant(node: ast.expr) -> object:
        match node:
            case ast.Constant(value):
                return value
            case ast.Name(name):
                home, called = names.get(name, (module, name))
                if (ROOT / home.replace(".", "/") / f"{called}.py").exists():
                    return importlib.import_module(f"{home}.{called}")
                return getattr(importlib.import_module(home), called, None)
            case ast.Attribute(value, name):
                return getattr(constant(value), name, None)
            case _:
                return None

    for node in ast.walk(tree):
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
            continue
        left = node.left.orelse if isinstance(node.left, ast.IfExp) else node.left
        left = left.func if isinstance(left, ast.Call) else left
        called = {ast.Attribute: "attr", ast.Name: "id"}.get(type(left), "")
        role = PLACE.fullmatch(getattr(left, called, ""))
        if role is None:
            continue
        name = constant(node.right)
        where = f"{path.relative_to(ROOT)}:{node.lineno}"
        assert isinstance(name, str), f"{where}: write this name so that it can be read here"
        yield role[1], name, where


def test_every_name_that_we_write_is_known() -> None:
    found = []
    for package in ("daemon", "control_api"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if not any(hub in path.parents for hub in HUB):
                found += written(path)
    unknown = [one for one in found if not matching([one[1]], KNOWN[one[0]])]
    assert unknown == [], "add them to KNOWN"
    assert {("state", pulled.FILE), ("state", "history.db"), ("cache", "found.json")} <= {
        one[:2] for one in found
    }


def test_what_is_spared_stays(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "clients").mkdir(parents=True)
    (state / "learned.json").write_text("")
    for only in (None, KNOWN["state"]):
        Remover(US).remove(Target(Role.STATE, state, only), spare=frozenset({"clients"}))
        assert [path.name for path in state.iterdir()] == ["clients"]


def test_anothers_files_stay_and_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("")
    remover = Remover(frozenset({os.geteuid() + 1}))
    assert remover.remove(Target(Role.LOG, tmp_path / "a")) == []
    assert "it belongs to user" in remover.troubles[0]
    assert (tmp_path / "a" / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_anothers_folder_within_ours_stays(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    (ours / "theirs").mkdir(parents=True)
    (ours / "theirs" / "file").write_text("")
    (ours / "mine").write_text("")
    os.chown(ours / "theirs", 4711, 4711)
    remover = Remover(US)
    assert remover.remove(Target(Role.LOG, ours)) == []
    assert len(remover.troubles) == 1, "its parents are no news"
    assert sorted(path.name for path in ours.iterdir()) == ["theirs"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root is refused nothing")
def test_what_cannot_go_is_told_once(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    (ours / "fixed").mkdir(parents=True)
    (ours / "fixed" / "file").write_text("")
    (ours / "fixed").chmod(stat.S_IRUSR | stat.S_IXUSR)
    remover = Remover(US)
    remover.remove(Target(Role.LOG, ours))
    (ours / "fixed").chmod(0o700)
    assert len(remover.troubles) == 1


def test_a_folder_that_is_a_link_is_unlinked_alone(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "file").write_text("")
    (tmp_path / "ours").symlink_to(tmp_path / "big")
    target = Target(Role.CACHE, tmp_path / "ours")
    assert present(target) == [tmp_path / "ours"]
    Remover(US).remove(target)
    assert (tmp_path / "big" / "file").exists()
    assert not os.path.lexists(tmp_path / "ours")


def test_links_into_our_environment(tmp_path: Path) -> None:
    root, bin_ = tmp_path / "service", tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "ctl").symlink_to(root / "current" / "bin" / "ctl")
    (bin_ / "modelport").symlink_to("../service/current/bin/ctl")
    (bin_ / "other").symlink_to("/usr/bin/env")
    found = list(links_into(root, [str(bin_), str(bin_), "", str(tmp_path / "none")]))
    assert sorted(path.name for path in found) == ["ctl", "modelport"]


def test_words() -> None:
    assert away("uv tool", "/p") == "uv tool uninstall modelport"
    assert away("venv", "/p") == "/p -m pip uninstall modelport"
    assert away("own", "/p") == ""
    assert matching(["a.json", "b"], ("*.json",)) == ["a.json"]
