"""Starts vllm-mlx with a key that no process list shows.

vllm-mlx takes its key as an argument only, which every user of the machine can read. Here it comes
from a file: ``--api-key-file FILE`` is exchanged for ``--api-key KEY`` inside the process.

Run by its path under ``python -P`` in vllm-mlx's environment (without ``-P`` the ``vllm_mlx.py``
beside this file would hide the real package): standard library and ``vllm_mlx`` only.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

FLAG = "--api-key-file"


def with_key(argv: list[str]) -> list[str]:
    """``argv`` with the key in place of its file. Raises OSError where that cannot be read."""
    if FLAG not in argv[:-1]:
        return argv
    at = argv.index(FLAG)
    key = Path(argv[at + 1]).read_text(encoding="utf-8").strip()
    return [*argv[:at], "--api-key", key, *argv[at + 2 :]]


def main() -> object:
    try:
        sys.argv[1:] = with_key(sys.argv[1:])
        cli = importlib.import_module("vllm_mlx.cli")
    except OSError as error:
        return f"error: failed to open the key: {error}"
    except ImportError as error:
        return f"error: cannot import vllm_mlx in {sys.executable}: {error}"
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())  # type: ignore[arg-type]  # exactly what sys.exit takes: status or text
