"""llama-server's command line as keys of ``[models.NAME]``.

What has a key of its own becomes that key; what modelport decides by itself is dropped; all else
goes on as ``args``, in its order. Names and which of them take no value: ``llama-server --help``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from control_api.commands.local.importing.values import Item
from daemon.engines.llama import RESERVED

_FLAG: Final = re.compile(r"--?[A-Za-z][\w.-]*")
_WITH_VALUE: Final = re.compile(r"(--[A-Za-z][\w.-]*)=(.*)", re.DOTALL)

Pair = tuple[str, tuple[str, ...]]
"""A flag, and the words behind it."""

_PATHS: Final = {
    **dict.fromkeys(("-m", "--model"), "path"),
    **dict.fromkeys(("-mm", "--mmproj"), "mmproj"),
    **dict.fromkeys(("-md", "--model-draft", "--spec-draft-model"), "draft"),
    "--chat-template-file": "template",
}
_FILES: Final = frozenset(
    {"--lora", "--control-vector", "--grammar-file", "-jf", "--json-schema-file"}
)
_HF: Final = frozenset({"-hf", "-hfr", "--hf-repo"})
_HF_FILE: Final = frozenset({"-hff", "--hf-file"})
_CTX: Final = frozenset({"-c", "--ctx-size"})
_SLOTS: Final = frozenset({"-np", "--parallel"})
_LAYERS: Final = frozenset({"-ngl", "--gpu-layers", "--n-gpu-layers"})
_KINDS: Final = {
    **dict.fromkeys(("--embedding", "--embeddings"), "embedding"),
    **dict.fromkeys(("--rerank", "--reranking"), "rerank"),
}
_ALIAS: Final = frozenset({"-a", "--alias"})
_OURS: Final = frozenset({"--host", "--port", "--jinja", "--offline", "--no-webui", "--no-ui"})
"""Nothing is lost without these: modelport says the same, or chooses."""
_PRESETS: Final = {
    "--gpt-oss-20b-default": "gpt-oss-20b",
    "--fim-qwen-30b-default": "qwen3-coder",
}
_DOWNLOADS: Final = re.compile(r"--[a-z0-9.-]+-(?:default|spec)")
ALL_LAYERS: Final = 99  # people write 99 or 999 for "all"


def pairs(words: Sequence[str]) -> list[Pair]:
    """The words of a command line by flag; the first ones, before any flag, have the flag ""."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for word in words:
        match = _WITH_VALUE.fullmatch(word)
        if match:
            found.append((_dashes(match[1]), [match[2]]))
        elif _FLAG.fullmatch(word):
            found.append((_dashes(word), []))
        else:
            found[-1][1].append(word)
    return [(flag, tuple(values)) for flag, values in found]


def _dashes(flag: str) -> str:
    return flag.replace("_", "-") if flag.startswith("--") else flag


def anchored(text: str, base: Path) -> str:
    """A path of another configuration, from the folder in which that program is started."""
    if text.startswith(("/", "~")) or not text:
        return text
    return str(base / text)


def translate(item: Item, given: Sequence[Pair], base: Path) -> None:
    """Fill ``item`` from llama-server's arguments; relative paths are meant from ``base``."""
    total: int | None = None
    args: list[str] = []
    for flag, values in given:
        value = values[0] if values else ""
        if not flag:
            if values:
                item.say("arguments", " ".join(values), "they belong to no flag.")
        elif flag in _CTX:
            total = _number(value)
            if total is None or total < 0:
                item.say(flag, value, "not a number of tokens.")
        elif flag in _SLOTS:
            slots = _number(value)
            if slots is not None and slots > 0:
                item.set("slots", slots)
        elif not _known(item, flag, value, base):
            there = anchored(value, base) if flag in _FILES else value
            args += [flag, *((there, *values[1:]) if values else ())]
    if total:
        # -c is for all slots together; ours is what each of them may hold
        item.set("ctx", max(1, total // max(1, item.keys.get("slots", 1))))
    if args:
        item.set("args", args)


def _known(item: Item, flag: str, value: str, base: Path) -> bool:
    """Whether this flag is more than an argument that is handed on."""
    if flag in _PATHS:
        if value:
            item.set(_PATHS[flag], anchored(value, base))
    elif flag in _HF:
        item.set("hf", value.removeprefix("hf:"))
    elif flag in _HF_FILE:
        item.set("file", value)
    elif flag in _KINDS:
        item.set("kind", _KINDS[flag])
    elif flag in _ALIAS:
        _add_aliases(item, value)
    elif flag in _LAYERS:
        return _layers(item, flag, value)
    elif flag in _PRESETS:
        item.set("preset", _PRESETS[flag])
        item.note(flag, "", f"the preset {_PRESETS[flag]} says the same in the open.")
    elif flag in RESERVED:
        if flag not in _OURS:
            item.say(flag, value, f"{RESERVED[flag]}.")
    elif flag in _OURS:
        pass
    elif _DOWNLOADS.fullmatch(flag) and flag != "--spec-default":
        item.say(flag, "", "it downloads unseen: name the weights with `hf`, and its settings.")
    else:
        return False
    return True


def _add_aliases(item: Item, value: str) -> None:
    names = [name.strip() for name in value.split(",")]
    item.keys.setdefault("aliases", []).extend(name for name in names if name)


def _layers(item: Item, flag: str, value: str) -> bool:
    """All of them is what is done anyway; a number is the user's will."""
    number = _number(value)
    if value in ("all", "auto") or (number is not None and (number < 0 or number >= ALL_LAYERS)):
        return True
    return number is None and _drop(item, flag, value)


def _drop(item: Item, flag: str, value: str) -> bool:
    item.say(flag, value, "not a number of layers.")
    return True


def _number(value: Any) -> int | None:
    return int(value) if re.fullmatch(r"-?\d{1,9}", str(value)) else None
