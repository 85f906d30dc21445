"""The command line of the stand-ins: llama-server's flags, and the flags of misbehaviour."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from tests.fakes.acting import add_roles

REPLY = "one two three four five six seven eight nine ten"
OOM = (
    "ggml_metal_synchronize: error: command buffer 0 failed with status 5\n"
    "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)
# llama-server's flags that change nothing here: with a value, and without.
LLAMA_VALUES = """\
-ngl --n-gpu-layers -t --threads -tb --threads-batch -b --batch-size -ub
    --ubatch-size -ctk --cache-type-k -ctv --cache-type-v -fa --flash-attn -cram --cache-ram -lv
    --verbosity -to --timeout -fit --fit -fitt --fit-target -mm --mmproj -md --model-draft --temp
    --top-p --top-k --min-p --reasoning-budget --reasoning-format --chat-template
    --chat-template-file --slot-save-path --override-kv --cache-reuse --sleep-idle-seconds -lm
    --load-mode -ot --override-tensor -sm --split-mode -ts --tensor-split -mg --main-gpu -dev
    --device --pooling -ncmoe --n-cpu-moe --chat-template-kwargs --rope-scaling --rope-scale
    --yarn-orig-ctx -ctxcp --ctx-checkpoints --presence-penalty --repeat-penalty"""
LLAMA_SWITCHES = """--metrics --jinja --no-jinja --no-webui --slots --no-slots --props -kvu -no-kvu
    --no-warmup --swa-full --no-mmproj --context-shift --no-context-shift"""


def say(text: str) -> None:
    """One line of the log, written at once."""
    with contextlib.suppress(OSError):
        os.write(2, (text + "\n").encode())


class Parser(argparse.ArgumentParser):
    """argparse with llama-server's way to refuse."""

    def error(self, message: str) -> None:  # type: ignore[override]
        say(f"error: invalid argument: {message.removeprefix('unrecognized arguments: ')}")
        sys.exit(1)


def add_faults(parser: argparse.ArgumentParser) -> None:
    """The flags that only a stand-in has."""
    add = parser.add_argument_group("misbehaviour").add_argument
    add("--fail-start", type=int, metavar="RC", help="print --stderr and exit so at once")
    add("--port-busy", action="store_true", help="fail as if the port were taken")
    add("--crash-at", default="", help="load, first-byte, token:N, request:N or exit")
    add("--crash-word", default="", metavar="TEXT", help="crash at a request that says it")
    add("--signal", choices=["ABRT", "SEGV", "KILL", "TERM"], help="crash by this signal")
    add("--exit-code", type=int, default=1, metavar="RC", help="crash with this status")
    add("--stderr", action="append", default=[], metavar="TEXT", help="print before a crash")
    add("--oom", action="store_true", help="short for --stderr with Metal's out-of-memory lines")
    add("--skip", type=int, default=0, metavar="N", help="the first N generations go well")
    add("--times", type=int, metavar="N", help="crashes and hangs only at the first N starts ...")
    add("--state", metavar="FILE", help="... which are counted in this file")
    add("--load-s", type=float, default=0.0, metavar="S", help="time from port open to ready")
    add("--load-until", default="", metavar="FILE", help="... and not before this file is there")
    add("--hang-load", action="store_true", help="never ready")
    add("--load-log", action="store_true", help="a log line every 50 ms while loading")
    add("--late-port", action="store_true", help="no port before the load is over")
    add("--early-health", action="store_true", help="healthy while still loading (mlx-lm)")
    add("--health-lies", action="store_true", help="healthy, but each generation is a 500")
    add("--hang-answer", action="store_true", help="healthy, but generations never answer")
    add("--hang-accept", action="store_true", help="connections open, nothing is ever read")
    add("--ignore-term", action="store_true", help="SIGTERM does nothing")
    add("--term-s", type=float, default=0.0, metavar="S", help="time from SIGTERM to the exit")
    add("--term-hangs", action="store_true", help="SIGTERM waits for open requests, for ever")
    add("--default-term", action="store_true", help="SIGTERM ends it by the signal (mlx-lm)")
    add("--grandchild", action="store_true", help="a child in a session of its own, deaf to TERM")
    add("--ballast", type=int, default=0, metavar="MIB", help="memory taken at the start")
    add("--leak", type=float, default=0.0, metavar="MIB_S", help="memory taken each second")
    add("--flood-log", type=int, default=0, metavar="MIB", help="so much log without a newline")
    add("--close-idle", type=float, metavar="MS", help="close kept connections after this")
    add("--drop-reused", action="store_true", help="close instead of a connection's 2nd answer")
    add("--no-chunked", action="store_true", help="411 for a chunked request (mlx-lm)")
    add("--drip", type=float, default=0.0, metavar="S", help="answers byte by byte, this far apart")
    add("--tokens", type=int, metavar="N", help="length of an answer; -1 never ends")
    add("--token-s", type=float, default=0.0, metavar="S", help="time between tokens")
    add("--first-s", type=float, default=0.0, metavar="S", help="time to the first token")
    add("--busy-s", type=float, default=0.0, metavar="S", help="burn a core before a first token")
    add("--reply", default=REPLY, help="the answer, a token a word")
    add("--reasoning", default="", help="thoughts before a chat answer")
    add("--tool", metavar="NAME", help="answer chats with a call of this tool")
    add("--writes", default="", metavar="PATH", help="have the client write this file, then answer")
    add_roles(add)
    add("--model-strict", metavar="NAME", help="404 for requests that name another model")
    add("--unhealthy", action="store_true", help="health is 200 and says unhealthy (vllm-mlx)")
    add("--record", metavar="FILE", help="append each request as a line of JSON")
    add("--control", metavar="FILE", help="JSON of these options, read before each request")


def parse(argv: list[str], description: str = "") -> argparse.Namespace:
    """llama-server's command line, and ours."""
    parser = Parser(prog="engine.py", description=description, allow_abbrev=False)
    add = parser.add_argument
    add("--version", action="store_true")
    add("--host", default="127.0.0.1", help="an address, or a path ending in .sock")
    add("--port", type=int, default=8080)
    add("-m", "--model", default="fake")
    add("-a", "--alias")
    add("-c", "--ctx-size", type=int, default=4096)
    add("-np", "--parallel", type=int, default=1)
    add("--api-key")
    add("--api-key-file", metavar="FILE")
    add("--embeddings", "--embedding", action="store_true")
    add("--reranking", "--rerank", action="store_true")
    for flag in LLAMA_VALUES.split():
        add(flag, help=argparse.SUPPRESS if len(flag) < 4 else None)
    for flag in LLAMA_SWITCHES.split():
        add(flag, action="store_true")
    add_faults(parser)
    return parser.parse_args(argv + flags_of_environment())


def flags_of_environment() -> list[str]:
    """The flags in FAKE_ENGINE_FLAGS, split as a shell would."""
    text = os.environ.get("FAKE_ENGINE_FLAGS", "")
    if not text:
        return []
    import shlex

    return shlex.split(text)


def with_faults(
    *, model: str, name: str, host: str, port: int, context: int = 4096, parallel: int = 1
) -> argparse.Namespace:
    """Options for the stand-in of another engine: faults come from the environment alone."""
    parser = Parser(allow_abbrev=False)
    add_faults(parser)
    options = parser.parse_args(flags_of_environment())
    vars(options).update(
        model=model,
        alias=name,
        host=host,
        port=port,
        ctx_size=context,
        parallel=parallel,
        api_key=None,
        api_key_file=None,
        embeddings=False,
        reranking=False,
    )
    return options
