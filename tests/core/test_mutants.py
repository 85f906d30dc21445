from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.core.mutants import MUTANTS, ROOT, apply
from tests.core.mutations import Mutant


def test_there_are_enough_and_each_has_its_own_name() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 25


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_each_still_has_its_place_and_is_valid_python(mutant: Mutant, tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.mkdir()
    shutil.copy(ROOT / "daemon" / "core" / mutant.file, core)
    apply(mutant, core)
    text = (core / mutant.file).read_text(encoding="utf-8")
    compile(text, mutant.file, "exec")
    assert text != (ROOT / "daemon" / "core" / mutant.file).read_text(encoding="utf-8")


def test_one_that_lost_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="lost: its text occurs 0 times"):
        apply(Mutant("lost", "page.py", "y = 1", "y = 2"), tmp_path)
