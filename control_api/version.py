"""The version of this program, found without importing more than is needed."""

from __future__ import annotations

from pathlib import Path


def version() -> str:
    """The version of the installed distribution, or of the checkout that this file is in."""
    pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if pyproject.is_file():
        import tomllib

        project = tomllib.loads(pyproject.read_text("utf-8")).get("project", {})
        if project.get("name") == "modelport":
            return str(project["version"])
    from importlib import metadata

    try:
        return metadata.version("modelport")
    except metadata.PackageNotFoundError:
        return "unknown"
