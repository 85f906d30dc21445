"""By what a model's tokens are counted while no engine does it: its own tokenizer.

Engines that are Python programs bring the libraries that read a ``tokenizer.json``. A GGUF has its
tokenizer in a form that none but llama.cpp reads: while it is not loaded, its tokens are estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.engines.base import Installed
from daemon.engines.binaries import python_beside
from daemon.engines.environment import child_environment

PROGRAM: Final = Path(__file__).with_name("token_counter.py")
_ENGINES: Final = frozenset({"mlx-lm", "vllm-mlx", "vllm"})
_READ: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_QUIET: Final = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
"""One thread: a count is soon done, and the processors are the engines'."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model's tokens are counted without it. ``mark``: of its files as they are now."""

    python: str
    folder: str
    template: str = ""
    mark: str = ""

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line of ``token_counter``."""
        own = (self.template,) if self.template else ()
        return (self.python, "-P", str(PROGRAM), self.folder, *own)


def recipe(installed: Installed, folder: Path | None, template: Path | None) -> Recipe | None:
    """How the tokens of the model in ``folder`` are counted; None: by nobody. Reads the disk."""
    if installed.engine not in _ENGINES or folder is None:
        return None
    program = Path(installed.program[0])
    python = program if program.name.startswith("python") else python_beside(program)
    if python is None or not (folder / "tokenizer.json").is_file():
        return None
    files = [folder / name for name in _READ] + ([template] if template is not None else [])
    own = str(template) if template is not None else ""
    return Recipe(str(python), str(folder), own, "/".join(map(_mark, files)))


def _mark(file: Path) -> str:
    try:
        told = file.stat()
    except OSError:
        return ""
    return f"{told.st_size}.{told.st_mtime_ns}"


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a counter's process may see."""
    return child_environment(environ, _QUIET)
