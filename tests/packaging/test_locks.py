"""The locks: exact, by hash, without a host, and what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "locks").glob("*.txt"))


def locked(path: Path) -> dict[str, set[str]]:
    """Versions by name; several where they depend on the Python."""
    versions: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)", line):
            versions.setdefault(canonicalize_name(match[1]), set()).add(match[2])
    return versions


def test_all_locks_are_there() -> None:
    names = {"build", "check", "demo", "llama-server", "mlx", "run", "test", "uv"}
    assert {path.stem for path in LOCKS} == names


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_package_has_a_version_and_a_hash_and_no_host_is_named(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]


def test_groups_that_share_an_environment_agree() -> None:
    seen: dict[str, set[str]] = {}
    for group in ("build", "run", "test", "check"):
        for name, versions in locked(ROOT / "locks" / f"{group}.txt").items():
            assert seen.setdefault(name, versions) == versions, name


@pytest.mark.parametrize("group", ["run", "test", "check", "mlx"])
def test_the_locks_satisfy_the_project(group: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if group == "run":
        wanted = project["project"]["dependencies"]
        wanted += project["project"]["optional-dependencies"]["llama"]
    else:
        wanted = project["dependency-groups"]["test-mlx" if group == "mlx" else group]
    versions = locked(ROOT / "locks" / f"{group}.txt")
    for requirement in map(Requirement, wanted):
        found = versions.get(canonicalize_name(requirement.name), set())
        assert found, f"{requirement.name} is not locked: run make lock"
        assert all(requirement.specifier.contains(version) for version in found), requirement


def test_mlx_needs_no_torch() -> None:
    assert "torch" not in locked(ROOT / "locks" / "mlx.txt")
