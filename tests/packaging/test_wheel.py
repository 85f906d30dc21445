"""The wheel: what is in it, and that it runs from an environment where nothing else of ours is."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(180)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (found,) = folder.glob("modelport-*.whl")
    return found


def test_what_is_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "ctl.py",
        "daemon/__main__.py",
        "daemon/backends/keeper.py",
        "daemon/config/presets.toml",
        "daemon/config/starter.toml",
        "daemon/service/units/modelport.service",
        "daemon/service/units/modelport.socket",
        "daemon/service/launchd/modelport.plist",
        "control_api/commands/main.py",
    } <= names
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"daemon", "control_api", "ctl.py"}, "nothing else goes into site-packages"


def test_its_commands(wheel: Path) -> None:
    (metadata,) = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("entry_points.txt")]
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    for line in ("ctl = ctl:main", "modelport = ctl:main", "modelportd = daemon.__main__:main"):
        assert line in text


def test_it_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Imported from the wheel's own files, with this environment's dependencies."""
    place = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(place)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import ctl, daemon.__main__ as d; "
        "assert ctl.__file__.startswith(sys.argv[1]), ctl.__file__; "
        "assert d.__file__.startswith(sys.argv[1]); "
        "from daemon.config.presets import load_presets; assert load_presets(); "
        "sys.argv[1:] = ['version']; ctl.main()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(place)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert "modelport" in done.stdout, done.stderr
