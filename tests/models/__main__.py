"""Tiny models from the command line.

python -m tests.models gguf tiny.gguf
python -m tests.models gguf huge.gguf --size 40G --fill sparse     (a few MiB on disk)
python -m tests.models hf tiny-hf/ --loop --context 1000000
python -m tests.models embedding embed.gguf
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from tests.models import DEFAULT_REPLY, Shape, make_embedding_gguf, make_gguf, make_hf, parse_size

SHAPE_FLAGS = ("layers", "dim", "heads", "kv-heads", "head-dim", "feed-forward", "context")


def parser() -> argparse.ArgumentParser:
    """Three commands; every option is one of the writer's arguments."""
    top = argparse.ArgumentParser(
        prog="python -m tests.models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    for name in ("gguf", "hf"):
        command = commands.add_parser(name)
        command.add_argument("path", type=Path)
        command.add_argument("--reply", default=DEFAULT_REPLY, help="what the model always says")
        command.add_argument("--loop", action="store_true", help="repeat the reply without end")
        command.add_argument("--random", action="store_true", help="babble bytes")
        command.add_argument("--size", type=parse_size, help="grow to about this, e.g. 500M")
        command.add_argument("--no-template", dest="template", action="store_false")
        for flag in SHAPE_FLAGS if name == "gguf" else ("layers", "dim", "context"):
            command.add_argument(f"--{flag}", type=int, default=argparse.SUPPRESS)
        if name == "gguf":
            command.add_argument("--arch", choices=["llama", "gemma3"], default="llama")
            command.add_argument("--fill", choices=["random", "zeros", "sparse"], default="random")
            command.add_argument("--dtype", choices=["f32", "f16", "q8_0"], default="f16")
            command.add_argument("--embedding", action="store_true")
    command = commands.add_parser("embedding")
    command.add_argument("path", type=Path)
    command.add_argument("--rerank", action="store_true")
    return top


def main() -> None:
    """Write the model and say how large it became."""
    options = vars(parser().parse_args())
    writers: dict[str, Callable[..., Shape]] = {
        "gguf": make_gguf,
        "hf": make_hf,
        "embedding": make_embedding_gguf,
    }
    write = writers[options.pop("command")]
    path = options.pop("path")
    shape = write(path, **options)
    files = path.iterdir() if path.is_dir() else [path]
    print(f"{path}: {sum(file.stat().st_size for file in files)} bytes, {shape}")


if __name__ == "__main__":
    main()
