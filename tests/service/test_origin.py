"""Which console script a service manager can call for years."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.service.origin import Kind, Seen, classify, look

OWN = Path("/home/me/.local/share/modelport/service")


def seen(prefix: str, *there: str, base: str = "/usr", code: str = "") -> Seen:
    return Seen(
        prefix=Path(prefix),
        base_prefix=Path(base),
        scripts=(Path(prefix) / "bin", Path("/home/me/.local/bin")),
        code=Path(code or f"{prefix}/lib/python3.12/site-packages"),
        own=OWN,
        passing=(Path("/tmp"), Path("/var/folders")),
        exists=lambda path: str(path) in there,
    )


UV = "/home/me/.local/share/uv/tools/modelport"
PIPX = "/home/me/.local/share/pipx/venvs/modelport"
UVX = "/home/me/.cache/uv/archive-v0/x1"
BREW = "/opt/homebrew/Cellar/modelport/1.2.0/libexec"


@pytest.mark.parametrize(
    ("found", "kind", "program"),
    [
        (seen(BREW, f"{BREW}/bin/modelportd"), Kind.HOMEBREW,
         "/opt/homebrew/opt/modelport/bin/modelportd"),
        (seen(UV, f"{UV}/bin/modelportd", f"{UV}/uv-receipt.toml"), Kind.UV_TOOL,
         f"{UV}/bin/modelportd"),
        (seen(PIPX, f"{PIPX}/bin/modelportd", f"{PIPX}/pipx_metadata.json"), Kind.PIPX,
         f"{PIPX}/bin/modelportd"),
        (seen("/srv/venv", "/srv/venv/bin/modelportd"), Kind.VENV, "/srv/venv/bin/modelportd"),
        (seen("/src/.venv", "/src/.venv/bin/modelportd", "/src/pyproject.toml", code="/src"),
         Kind.CHECKOUT, "/src/.venv/bin/modelportd"),
        (seen("/src/.venv", "/src/pyproject.toml", code="/src"), Kind.CHECKOUT, None),
        (seen("/usr", "/usr/bin/modelportd"), Kind.SYSTEM, "/usr/bin/modelportd"),
        (seen("/usr", "/home/me/.local/bin/modelportd"), Kind.SYSTEM,
         "/home/me/.local/bin/modelportd"),
        (seen(UVX, f"{UVX}/bin/modelportd"), Kind.PASSING, None),
        (seen("/home/me/.cache/pipx/0a1b", "/home/me/.cache/pipx/0a1b/bin/modelportd"),
         Kind.PASSING, None),
        (seen("/tmp/try", "/tmp/try/bin/modelportd"), Kind.PASSING, None),
        (seen(f"{OWN}/env-1.0-abc", f"{OWN}/env-1.0-abc/bin/modelportd"), Kind.OWN,
         f"{OWN}/current/bin/modelportd"),
        (seen("/opt/homebrew/Cellar/python@3.12/3.12.1/x/venv",
              "/opt/homebrew/Cellar/python@3.12/3.12.1/x/venv/bin/modelportd"), Kind.VENV,
         "/opt/homebrew/Cellar/python@3.12/3.12.1/x/venv/bin/modelportd"),
    ],
    ids=lambda value: value.value if isinstance(value, Kind) else "",
)  # fmt: skip
def test_each_way_of_installing(found: Seen, kind: Kind, program: str | None) -> None:
    origin = classify(found)
    assert origin.kind is kind
    assert origin.program == (Path(program) if program else None)
    assert bool(origin.note) is (kind in (Kind.PASSING, Kind.CHECKOUT))


def test_package_managers_bring_their_own_upgrade() -> None:
    assert classify(seen(BREW)).upgrade == "brew upgrade modelport"
    assert classify(seen(UV, f"{UV}/uv-receipt.toml")).upgrade == "uv tool upgrade modelport"
    assert classify(seen(PIPX, f"{PIPX}/pipx_metadata.json")).upgrade == "pipx upgrade modelport"
    assert classify(seen("/srv/venv", "/srv/venv/bin/modelportd")).upgrade == ""


def test_this_very_program(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert (found.code / "daemon" / "service" / "origin.py").is_file()
    assert classify(found).kind in set(Kind)
