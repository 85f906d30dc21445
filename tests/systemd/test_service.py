"""The login service under a real systemd: installed from a wheel, by ``ctl`` alone.

One life of it (``scene.py``, about two minutes) in a systemd of its own; each finding is a test.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from tests.models import make_gguf

pytestmark = [pytest.mark.systemd, pytest.mark.real, pytest.mark.timeout(1000)]
ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SECONDS = 800  # two minutes on a quiet machine, five on a busy one
CANNOT = 77  # exit status of boot.sh


def names() -> list[str]:
    """What the scene looks at, as its source says."""
    tree = ast.parse((HERE / "scene.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    notes = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "note"]
    notes.sort(key=lambda call: call.lineno)
    return [str(c.args[0].value) for c in notes if isinstance(c.args[0], ast.Constant)]


def installed(folder: Path) -> tuple[Path, Path]:
    """A console script of our wheel, in an environment whose other packages are this one's; and
    the wheel."""
    python = [sys.executable, "-P", "-m"]
    build = [*python, "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("modelport-*.whl")
    venv = folder / "venv"
    subprocess.run([*python, "venv", "--without-pip", str(venv)], check=True, timeout=60)
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    words = ["--no-index", "--no-deps", "--quiet", str(wheel)]
    install = [*python, "pip", "--python", str(venv / "bin" / "python"), "install", *words]
    if uv:
        install = [uv, "pip", "install", "--python", str(venv / "bin" / "python"), *words]
    subprocess.run(install, check=True, capture_output=True, timeout=60)
    (packages,) = venv.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(here) + "\n")
    if uv:
        (venv / "bin" / "uv").symlink_to(Path(uv).resolve())
    return venv / "bin" / "ctl", wheel


def another(wheel: Path, version: str, *, broken: bool = False) -> Path:
    """The same wheel as another version; ``broken``: its daemon dies at its start."""
    old = wheel.name.split("-")[1]
    made = wheel.with_name(wheel.name.replace(f"-{old}-", f"-{version}-"))
    record: list[str] = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            data, place = (
                source.read(name),
                name.replace(f"-{old}.dist-info", f"-{version}.dist-info"),
            )
            if name.endswith("/METADATA"):
                data = data.replace(
                    f"\nVersion: {old}\n".encode(), f"\nVersion: {version}\n".encode()
                )
            if broken and name == "daemon/assembly.py":
                data = b'raise RuntimeError("broken on purpose")\n'
            if not name.endswith("/RECORD"):
                told = urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                record.append(f"{place},sha256={told},{len(data)}")
                target.writestr(place, data)
        listed = f"modelport-{version}.dist-info/RECORD"
        target.writestr(listed, "\n".join([*record, f"{listed},,"]) + "\n")
    return made


@pytest.fixture(scope="module")
def findings() -> dict[str, tuple[bool, str]]:
    """Everything that the scene found, by name."""
    if sys.platform != "linux":
        pytest.skip("systemd is Linux's")
    folder = Path(tempfile.mkdtemp(prefix="mp-sd-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        make_gguf(folder / "tiny.gguf")
        shutil.copy(HERE / "scene.py", folder)
        ctl, wheel = installed(folder)
        others = [another(wheel, "99.1"), another(wheel, "99.2", broken=True)]
        places = {str(folder), sys.prefix, sys.base_prefix}
        binds = [word for place in sorted(places) for word in ("--bind", place)]
        words = [str(w) for w in (folder / "scene.py", ctl, folder / "tiny.gguf", *others)]
        boot = ["bash", str(HERE / "boot.sh"), *binds, "--timeout", str(SECONDS), "--"]
        done = subprocess.run(
            [*boot, f"{sys.base_prefix}/bin/python3", *words],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=SECONDS + 40,
            check=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode == CANNOT:
        pytest.skip(f"no systemd can be booted here: {done.stderr.strip()[-300:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = {row["name"]: (row["ok"], row["detail"]) for row in rows}
    found["the scene went to its end"] = (done.returncode == 0, done.stderr[-3000:])
    return found


@pytest.mark.parametrize("name", [*names(), "the scene went to its end"])
def test_scene(findings: dict[str, tuple[bool, str]], name: str) -> None:
    assert name in findings, findings["the scene went to its end"][1] or "it was not looked at"
    good, detail = findings[name]
    print(f"{name}: {detail}")  # the score of systemd-analyze security, for who asks with -s
    assert good, detail
