"""Where other programs keep engines: looked at by ``ctl engine ls``, used only when asked for
(``ctl engine use llama-server /path``). From their documentation and reports; see
docs/untested.md."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

# By engine: whose, and where below the home (or from the root). Nothing here walks a whole tree.
PLACES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "llama-server": (
        ("Homebrew", "/opt/homebrew/bin/llama-server"),
        ("Homebrew", "/usr/local/bin/llama-server"),
        ("Homebrew", "/home/linuxbrew/.linuxbrew/bin/llama-server"),
        ("MacPorts", "/opt/local/bin/llama-server"),
        ("the system", "/usr/bin/llama-server"),
        ("LM Studio", ".lmstudio/extensions/backends/*/llama-server"),
        ("LM Studio", ".cache/lm-studio/extensions/backends/*/llama-server"),
        ("Jan", ".local/share/Jan/data/llamacpp/backends/*/*/build/bin/llama-server"),
        ("Jan", "Library/Application Support/Jan/data/llamacpp/backends/*/*/build/bin/llama-server"),  # noqa: E501
        ("Unsloth", ".unsloth/llama.cpp/build/bin/llama-server"),
        ("a compile", "llama.cpp/build/bin/llama-server"),
    ),
    "mlx-lm": (
        ("uv tool", ".local/share/uv/tools/mlx-lm"),
        ("pipx", ".local/share/pipx/venvs/mlx-lm"),
        ("pipx", ".local/pipx/venvs/mlx-lm"),
    ),
    "vllm-mlx": (
        ("uv tool", ".local/share/uv/tools/vllm-mlx"),
        ("pipx", ".local/share/pipx/venvs/vllm-mlx"),
        ("pipx", ".local/pipx/venvs/vllm-mlx"),
    ),
    "vllm": (
        ("uv tool", ".local/share/uv/tools/vllm"),
        ("pipx", ".local/share/pipx/venvs/vllm"),
        ("pipx", ".local/pipx/venvs/vllm"),
    ),
}  # fmt: skip
MAX_EACH: Final = 16  # of one pattern


def places(engine: str, home: Path | None, root: Path = Path("/")) -> list[tuple[str, Path]]:
    """Whose and where, for what is there; the same file behind a link only once."""
    found: dict[Path, tuple[str, Path]] = {}
    for whose, pattern in PLACES.get(engine, ()):
        if pattern.startswith("/"):
            base, rest = root, pattern[1:]
        elif home is not None:
            base, rest = home, pattern
        else:
            continue
        for path in sorted(base.glob(rest), reverse=True)[:MAX_EACH]:
            if path.is_dir() or os.access(path, os.X_OK):
                found.setdefault(path.resolve(), (whose, path))
    return list(found.values())


def others(
    engine: str, home: Path | None, used: Iterable[str], root: Path = Path("/")
) -> list[tuple[str, Path]]:
    """As :func:`places`, without those of the program in use (its command line's words)."""
    words = [Path(word).resolve() for word in used if word.startswith("/")]

    def same(path: Path) -> bool:
        real = path.resolve()
        return any(word == real or (path.is_dir() and real in word.parents) for word in words)

    return [(whose, path) for whose, path in places(engine, home, root) if not same(path)]
