"""What an upgrade would be, by how modelport was installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.service.installers import Newest
from daemon.service.origin import Kind
from daemon.service.upgrading import (
    Act,
    Known,
    Past,
    load_past,
    pinned,
    plan,
    plan_back,
    save_past,
)

NEW = Newest("2.0")
PIP = ("pip", "install", "--upgrade")
WAYS = [
    (Kind.UV_TOOL, "uv tool upgrade modelport"),
    (Kind.PIPX, "pipx upgrade modelport"),
    (Kind.HOMEBREW, "brew upgrade modelport"),
    (Kind.VENV, "pip install --upgrade modelport"),
]


def known(kind: Kind, **more: object) -> Known:
    fields = {"own": False, "current": "1.0", "newest": NEW, "pip": PIP, "code": "/src", **more}
    return Known(kind=kind, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "line"), WAYS)
def test_each_manager_is_asked_in_its_own_words(kind: Kind, line: str) -> None:
    made = plan(known(kind))
    assert (made.act, made.line, made.target) == (Act.PROGRAM, line, "2.0")


def test_a_held_version_is_let_go() -> None:
    line = "uv tool install --force modelport[llama]"
    assert plan(known(Kind.UV_TOOL, held=True, extras=("llama",))).line == line
    assert plan(known(Kind.PIPX, held=True)).line == "pipx install --force modelport"


def test_an_own_environment_is_made_anew_whoever_asks() -> None:
    for kind in (Kind.OWN, Kind.PASSING, Kind.UV_TOOL, Kind.SYSTEM):
        made = plan(known(kind, own=True, extras=("llama",)))
        assert (made.act, made.what) == (Act.ENVIRONMENT, "modelport[llama]==2.0")
    wheel = "modelport @ file:///w/modelport-3.1-py3-none-any.whl"
    made = plan(known(Kind.OWN, own=True, what=wheel))
    assert (made.target, made.what, made.text) == ("3.1", wheel, "1.0 -> 3.1")


def test_what_a_person_does() -> None:
    assert plan(known(Kind.CHECKOUT)).line == "git -C /src pull && ctl service restart"
    assert plan(known(Kind.CHECKOUT, own=True)).line == "git -C /src pull && ctl service install"
    assert plan(known(Kind.CHECKOUT, what="modelport==3")).act is Act.REFUSED
    assert plan(known(Kind.PASSING)).line == "uvx modelport@latest"
    assert plan(known(Kind.SYSTEM)).act is Act.BY_HAND
    assert plan(known(Kind.VENV, pip=())).act is Act.BY_HAND
    assert plan(known(Kind.HOMEBREW, what="modelport==3")).act is Act.REFUSED


ASKED = st.sampled_from(["", "modelport==0.5", "modelport @ file:///x.whl"])
NEWEST = st.sampled_from(["", "0.9", "1.0", "2.0"])


@given(st.sampled_from(Kind), st.booleans(), NEWEST, st.booleans(), ASKED)
def test_laws(kind: Kind, own: bool, newest: str, held: bool, what: str) -> None:
    found = Newest(newest) if newest else Newest("", "offline", offline=True)
    made = plan(known(kind, own=own, newest=found, held=held, what=what))
    assert made.text
    if made.act is Act.PROGRAM:
        assert made.argv
        assert not own
    if made.act is Act.ENVIRONMENT:
        assert own
        assert made.what.startswith("modelport")
    if made.act in (Act.PROGRAM, Act.ENVIRONMENT) and not what:
        assert newest == "2.0", "never back, never sideways, never blind"
    if made.act is Act.BY_HAND:
        assert made.line


def test_the_way_back() -> None:
    past = Past("0.9", "1.0", "uv tool", what=pinned("0.9", ("llama",)))
    made = plan_back(known(Kind.UV_TOOL), past, there=False)
    assert made.line == "uv tool install --force modelport[llama]==0.9"
    assert plan_back(known(Kind.PIPX), past, there=False).act is Act.REFUSED, "installed anew"
    assert plan_back(known(Kind.HOMEBREW), past, there=False).act is Act.REFUSED
    assert plan_back(known(Kind.UV_TOOL), None, there=False).act is Act.REFUSED
    own = Past("0.9", "1.0", "own", "/root/env-0.9")
    assert plan_back(known(Kind.OWN, own=True), own, there=True).act is Act.ENVIRONMENT
    assert plan_back(known(Kind.OWN, own=True), own, there=False).act is Act.REFUSED
    held = Past("1.0", "0.9", "own", "/root/env-1", held=True)
    assert plan_back(known(Kind.OWN, own=True), held, there=True).act is Act.REFUSED


def test_what_was_replaced_is_remembered(tmp_path: Path) -> None:
    file, past = tmp_path / "upgrade.json", Past("0.9", "1.0", "own", "/root/env", held=True)
    assert load_past(file) is None
    save_past(file, past)
    assert load_past(file) == past
    for odd in (b"[]", b"{", b'{"schema": 2}', b'{"schema": 1, "more": 2}'):
        file.write_bytes(odd)
        assert load_past(file) is None
