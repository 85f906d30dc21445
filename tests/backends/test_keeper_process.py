"""What is checked and chosen before a keeper's process is there."""

from __future__ import annotations

import os
import py_compile
import sys
from pathlib import Path

import pytest

from daemon.backends import keeper as program
from daemon.backends.keeper_process import program_for
from daemon.backends.keeping import Keeper, KeeperError
from daemon.core.problems import Code
from tests.backends.keeper_house import Events, House
from tests.backends.keeper_house import house as _house

house = pytest.fixture(_house)


async def test_a_socket_path_that_no_kernel_takes_is_refused_before_the_start(house: House) -> None:
    with pytest.raises(KeeperError, match="100 are allowed") as caught:
        await Keeper.start(
            house.order(("x",), socket=house.root / ("x" * 100)),
            on_event=Events(),
            patience=5.0,
        )
    assert caught.value.problem.code is Code.CONFIG_INVALID
    assert "MODELPORT_RUNTIME_DIR" in caught.value.problem.hint


def test_only_a_compiled_file_of_this_very_source_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "keeper.py"
    source.write_text("one = 1\n")
    monkeypatch.setattr(program, "__file__", os.fspath(source))
    assert program_for(sys.executable) == os.fspath(source), "none is there"
    compiled = Path(py_compile.compile(os.fspath(source)) or "")
    assert program_for(sys.executable) == os.fspath(compiled)
    assert program_for("/another/python") == os.fspath(source)
    source.write_text("three = 3\n")
    assert program_for(sys.executable) == os.fspath(source), "an old one is there"
    compiled.write_bytes(b"short")
    assert program_for(sys.executable) == os.fspath(source)
