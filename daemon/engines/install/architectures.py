"""Does an engine know a model's architecture? Asked of its files, not guessed from its version.

llama.cpp carries the names of all architectures that it knows as plain text in its program or
library, mlx-lm has a module for each. Where that cannot be seen, nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# All known to every llama.cpp of these years: a file without them does not hold the table.
_ALWAYS: Final = (b"llama\0", b"starcoder2\0", b"gemma2\0")
_PIECE: Final = 1 << 19
_LONGEST: Final = 80  # bytes of a name
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{1,63}")


def files_of(engine: str, program: tuple[str, ...]) -> tuple[Path, ...]:
    """Where the names would be, for an engine as it was found."""
    words = [Path(word) for word in program if word.startswith("/")]
    if not words:
        return ()
    if engine == "llama-server":
        real = words[0].resolve()
        folders = (real.parent, real.parent.parent / "lib")
        libraries = [path for folder in folders for path in sorted(folder.glob("libllama.*"))]
        return (*(path for path in libraries if path.is_file()), real)
    packages = list(_packages(words[0]))
    if engine == "xllamacpp":
        return tuple(file for one in packages for file in sorted(one.glob("xllamacpp/*.so")))
    if engine in ("mlx-lm", "vllm-mlx"):
        return tuple(one for one in packages if (one / "mlx_lm" / "models" / "llama.py").is_file())
    return ()


def _packages(python: Path) -> Iterator[Path]:
    """The folders of packages of an environment, by its interpreter or a script beside it."""
    yield from sorted(python.parent.parent.glob("lib/python3*/site-packages"))


def knows(engine: str, file: Path, architecture: str) -> bool | None:
    """Whether it does; None where this file does not tell. Raises OSError."""
    if not _NAME.fullmatch(architecture):
        return None
    if engine in ("mlx-lm", "vllm-mlx"):
        return _mlx(engine, file, architecture)
    # A longer name that ends alike counts too: better let one through than refuse one.
    wanted = architecture.encode() + b"\0"
    missing = _missing(file, {wanted, *_ALWAYS})
    return True if not missing else False if missing == {wanted} else None


def _missing(file: Path, names: set[bytes]) -> set[bytes]:
    """Which of these are nowhere in it. Piece by piece: a search through all of a hundred megabytes
    at once would hold the interpreter, and requests with it, for a quarter of a second."""
    left, end = set(names), b""
    with file.open("rb", buffering=0) as data:
        while left and (piece := data.read(_PIECE)):
            text = end + piece
            left = {name for name in left if name not in text}
            end = text[-_LONGEST:]
    return left


def _mlx(engine: str, packages: Path, architecture: str) -> bool | None:
    """By its modules, and the table of other names in ``utils.py``."""
    if (packages / "mlx_lm" / "models" / f"{architecture}.py").is_file():
        return True
    vision = packages / "mlx_vlm" / "models"
    if engine == "vllm-mlx" and (not vision.is_dir() or (vision / architecture).is_dir()):
        return True if vision.is_dir() else None
    utils = packages / "mlx_lm" / "utils.py"
    return f'"{architecture}"' in utils.read_text("utf-8", "replace") if utils.is_file() else None
