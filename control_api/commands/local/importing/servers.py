"""Command lines of inference servers: whose they are, and how they are written here.

llama-server, vLLM, vllm-mlx and mlx-lm become engines of ours. Anything else becomes a template of
its own, ``[engines.command.NAME]``, in which the port is ``{port}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from control_api.commands.local.importing.llama_args import Pair, anchored, pairs, translate
from control_api.commands.local.importing.values import Item, secret_name
from daemon.engines import mlx_lm, vllm, vllm_mlx

PORT: Final = "\x00port\x00"
"""Stands in a command where the port will be; a NUL is in no command line."""

_ASSIGNED: Final = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_LLAMA: Final = re.compile(r"llama-server[\w.-]*")
_PYTHON: Final = re.compile(r"python[\d.]*")
_CONTAINERS: Final = frozenset({"docker", "podman", "nerdctl"})
_BRACES: Final = re.compile(r"\{[A-Za-z_]\w*\}")
_REPO: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Server:
    """An engine of ours, the program that was named, and its words behind that."""

    engine: str
    program: str
    words: tuple[str, ...]


def split_env(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """``env A=B program …`` without its ``env``."""
    rest, found = list(words), dict[str, str]()
    if rest and PurePath(rest[0]).name == "env":
        del rest[0]
    while rest and (match := _ASSIGNED.fullmatch(rest[0])):
        found[match[1]] = match[2]
        del rest[0]
    return found, rest


def server_of(words: Sequence[str]) -> Server | None:
    """Which engine of ours this command line starts; None: none that we know."""
    if not words:
        return None
    name, rest = PurePath(words[0]).name, tuple(words[1:])
    if _LLAMA.fullmatch(name):
        return Server("llama-server", words[0], rest)
    if name in ("mlx_lm.server", "mlx-lm.server"):
        return Server("mlx-lm", words[0], rest)
    if name == "mlx_lm" and rest[:1] == ("server",):
        return Server("mlx-lm", words[0], rest[1:])
    if name in ("vllm", "vllm-mlx") and rest[:1] == ("serve",):
        return Server(name, words[0], rest[1:])
    if _PYTHON.fullmatch(name) and rest[:1] == ("-m",) and len(rest) > 1:
        if rest[1] == "mlx_lm.server":
            return Server("mlx-lm", words[0], rest[2:])
        if rest[1] == "mlx_lm" and rest[2:3] == ("server",):
            return Server("mlx-lm", words[0], rest[3:])
        if rest[1] == "vllm.entrypoints.openai.api_server":
            return Server("vllm", words[0], rest[2:])
    return None


def fill(item: Item, server: Server, base: Path) -> None:
    """The keys of a model of this engine."""
    item.set("engine", server.engine)
    given = pairs([word.replace(PORT, "0") for word in server.words])
    if server.engine == "llama-server":
        translate(item, given, base)
    else:
        _python(item, server.engine, given, base)


_CTX: Final = frozenset({"--max-model-len", "--max-context-length"})
_SLOTS: Final = frozenset({"--max-num-seqs", "--decode-concurrency"})
_RESERVED: Final[Mapping[str, Mapping[str, str]]] = {
    "mlx-lm": mlx_lm.RESERVED,
    "vllm": vllm.RESERVED,
    "vllm-mlx": vllm_mlx.RESERVED,
}
_SILENT: Final = frozenset({"--host", "--port", "--uds", "--served-model-name"})


def _python(item: Item, engine: str, given: Sequence[Pair], base: Path) -> None:
    """vLLM and the MLX servers: weights by name, the rest much alike."""
    args: list[str] = []
    for flag, values in given:
        value = values[0] if values else ""
        if not flag or flag == "--model":
            if value:
                _weights(item, value, base)
        elif flag == "--draft-model" and value:
            item.set("draft", anchored(value, base)) if _local(value) else item.say(
                flag, value, "pull it, and name its folder with `draft`."
            )
        elif flag == "--chat-template" and value:
            if value.startswith(("/", "~", ".")) or value.endswith(".jinja"):
                item.set("template", anchored(value, base))
            else:
                args += [flag, *values]
        elif flag in _CTX and value.isdecimal() and len(value) < 10:
            item.set("ctx", int(value))
        elif flag in _SLOTS and value.isdecimal() and len(value) < 10:
            item.set("slots", int(value))
        elif flag in _RESERVED[engine]:
            if flag not in _SILENT:
                item.say(flag, value, f"{_RESERVED[engine][flag]}.")
        else:
            args += [flag, *values]
    if args:
        item.set("args", args)


def _local(value: str) -> bool:
    return value.startswith(("/", "~", ".")) or value.endswith((".gguf", ".safetensors"))


def _weights(item: Item, value: str, base: Path) -> None:
    if not _local(value) and _REPO.fullmatch(value):
        item.set("hf", value)
    else:
        item.set("path", anchored(value, base))


def as_command(item: Item, words: Sequence[str], port: str) -> str:
    """Any other server, as a template. ``port``: the one that its command names itself, "" where
    :data:`PORT` stands in it. Why it cannot be one; "" if it can."""
    if any(_BRACES.search(word) for word in words):
        return "its command has a word in braces, which means something else here."
    argv = list(words)
    if port and not any(PORT in word for word in argv):
        argv = [_ported(word, port) for word in argv]
    if not any(PORT in word for word in argv):
        return "no port in its command is the one at which it is reached."
    argv = [word.replace(PORT, "{port}") for word in argv]
    item.command = {"argv": argv}
    if PurePath(argv[0]).name in _CONTAINERS:
        item.command["elsewhere"] = True
        for word in argv:
            if word.startswith("{port}:"):
                how = f"other machines reach it past modelport; 127.0.0.1:{word} keeps it here."
                item.note("cmd", word, how)
        if not {"--init", "--rm"} <= set(argv):
            item.say("cmd", "", "a container ends with its program: add --init and --rm.")
        if "-d" in argv or "--detach" in argv:
            item.say("cmd", "", "without -d, or nobody knows when it ends.")
    item.say("memory", "", "not known: set `footprint` of its engine, or it is measured.")
    return ""


def _ported(word: str, port: str) -> str:
    """The word with its port made ours: alone, behind ``=`` or ``:``, or before ``:`` (docker)."""
    return re.sub(rf"(?:(?<=^)|(?<=[=:])){re.escape(port)}(?=$|:)", lambda _: PORT, word)


def environment(item: Item, given: Mapping[str, str], unresolved: Mapping[str, str]) -> None:
    """``env`` of the model. ``unresolved``: variables that the environment is to give, by name."""
    kept = {name: text for name, text in given.items() if name not in unresolved}
    for name, variable in unresolved.items():
        secret = " It is a secret: keep it out of shared files." if secret_name(name) else ""
        item.say(f"env.{name}", "", f"it comes from ${variable}; set it by hand.{secret}")
    if kept:
        item.set("env", kept)
