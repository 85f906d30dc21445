"""Wheels made by tests: of engines that are not what they seem."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

# Says what a good one says of itself, and fails when it is to serve. {start} is its Server.
ENGINE = '''
__version__ = "{version}"


def get_device_info():
    return [{{"name": "CPU"}}]


class CommonParams:
    """Takes whatever it is given."""

    def __init__(self):
        object.__setattr__(self, "_all", {{}})
        self.hostnames = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self._all.setdefault(name, _Any())

    def __setattr__(self, name, value):
        self._all[name] = value


class _Any(CommonParams):
    def __init__(self):
        object.__setattr__(self, "_all", {{}})

    def __iter__(self):
        return iter(())

    def __call__(self, *args, **kwargs):
        return self


class Server:
    def __init__(self, params):
        {start}
'''


def make_engine(folder: Path, version: str, start: str) -> Path:
    """A wheel of an ``xllamacpp`` whose server does ``start`` (a statement)."""
    return make(folder, "xllamacpp", version, ENGINE.format(version=version, start=start))


def make(folder: Path, name: str, version: str, code: str) -> Path:
    """A wheel with one module."""
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": code,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = [f"{path},sha256={_hash(text)},{len(text.encode())}" for path, text in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*record, f"{about}/RECORD,,"]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for path, text in files.items():
            file.writestr(path, text)
    return wheel


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
