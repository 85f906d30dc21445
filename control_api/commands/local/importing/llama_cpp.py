"""llama-server's own presets for several models: the INI file of ``--models-preset``.

A section for each model, ``[*]`` for all; keys are long names of arguments without their dashes,
short ones, or the names of their environment variables (llama.cpp, ``docs/preset.md``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_api.commands.local.importing.llama_args import Pair
from control_api.commands.local.importing.llama_args import translate as translate_args
from control_api.commands.local.importing.reading import Document
from control_api.commands.local.importing.values import MAX_MODELS, Imported, Item, clean_name

_SECTION: Final = re.compile(r"\[([^\[\]]+)\]\s*(?:[;#].*)?")
_PAIR: Final = re.compile(r"([A-Za-z_][\w.-]*)\s*=\s*(.*)")
_HF: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?::[\w.-]+)?")
_YES: Final = frozenset({"true", "on", "enabled", "yes", "1"})
_NO: Final = frozenset({"false", "off", "disabled", "no", "0"})
_VARIABLE: Final = "LLAMA_ARG_"
_VARIABLES: Final = {"n-parallel": "parallel", "n-predict": "predict"}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SHORT: Final = _names(
    """
    t tb C Cr Cb Crb c n b ub fa e kvo nkvo nr ctk ctv dt lm lzm dev ot cmoe ncmoe ncffn ngl sm ts
    mg fit fitt fitc m mu dr hf hfr hff hft v lv ctkd ctvd s l j jf bs hfd hfrd td tbd Cd Crd Cbd
    otd cmoed ncmoed devd ngld md lcs lcd ctxcp cms cram kvu r sp np cb nocb mm mmu mmdev a ag to
    rea sps
    """
)
"""Names with one dash (``llama-server --help``, a build of 2026)."""

_ONE_WAY: Final = _names(
    """
    swa-full no-host mlock cpu-moe check-tensors verbose log-verbose offline ignore-eos special
    spec-draft-cpu-moe cpu-moe-draft spm-infill reuse-port embedding embeddings rerank reranking
    metrics props lora-init-without-apply spec-default kvu cmoe nkvo nocb cb v sp bs log-disable
    """
)
"""Those that take no value, and say no by not being there."""
_SWITCHES: Final = _ONE_WAY | _names(
    """
    perf escape kv-offload repack mmap op-offload log-jsonl log-prefix log-timestamps
    backend-sampling spec-draft-backend-sampling kv-unified cache-idle-slots context-shift warmup
    cont-batching mmproj-auto mmproj-offload cors-credentials ui-mcp-proxy webui-mcp-proxy agent ui
    webui cache-prompt slots models-autoload jinja reasoning-preserve skip-chat-parsing
    prefill-assistant
    """
)
"""Those that take no value; the others of them say no as ``--no-NAME``."""


@dataclass(frozen=True, slots=True)
class _Line:
    key: str
    value: str
    number: int


def translate(text: str, source: str, base: Path) -> Imported:
    """``base``: the folder from which its relative paths are meant. Raises ConfigError."""
    document = Document(source)
    found = Imported(source)
    sections = _sections(document, text)
    shared = sections.pop("*", {})
    for line in sections.pop("", {}).values():
        if line.key != "version":
            found.say(line.key, line.value, "it stands above the first section.")
    if not sections:
        document.wrong((), "no section", "a [section] for each model")
    if len(sections) > MAX_MODELS:
        document.wrong((), f"{len(sections)} sections", f"at most {MAX_MODELS}")
    document.check()
    for name, lines in sections.items():
        found.items.append(_model(name, {**shared, **lines}, base))
    return found


def _sections(document: Document, text: str) -> dict[str, dict[str, _Line]]:
    """Every section's lines by key; what stands above the first is under ""."""
    found: dict[str, dict[str, _Line]] = {"": {}}
    name = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in ";#":
            continue
        if match := _SECTION.fullmatch(line):
            name = match[1].strip()
            document.lines[(name,)] = number
            if name in found:
                document.wrong((name,), "this section a second time", "each section once")
            found.setdefault(name, {})
        elif match := _PAIR.fullmatch(line):
            key = _key(match[1])
            document.lines[(name, key)] = number
            if key in found[name]:
                document.wrong((name, key), "this key a second time", "each key once")
            found[name][key] = _Line(key, match[2].strip(), number)
        else:
            document.lines[(name, "line")] = number
            document.wrong((name, "line"), "a line that is neither", "[section] or key = value")
    return found


def _key(written: str) -> str:
    """The argument's name without dashes, however it was written."""
    if written.startswith(_VARIABLE):
        name = written.removeprefix(_VARIABLE).lower().replace("_", "-")
        return _VARIABLES.get(name, name)
    return written.replace("_", "-")


def _model(name: str, lines: dict[str, _Line], base: Path) -> Item:
    item = Item(clean_name(name), {"engine": "llama-server"})
    if item.name != name:
        item.note("section", name, "letters, digits and . _ : / @ + - only.")
    given: list[Pair] = []
    for line in lines.values():
        if line.key == "load-on-startup":
            if line.value.lower() in _YES:
                item.set("pin", True)
                item.note(line.key, "", "pin = true: started at boot, and never evicted.")
        elif line.key == "stop-timeout":
            item.say(line.key, line.value, "how long an engine has to end is [timing] stop_grace.")
        elif line.key == "sleep-idle-seconds":
            if re.fullmatch(r"[1-9]\d{0,8}", line.value):
                item.set("keep_alive", int(line.value))
        else:
            given += _pair(item, line)
    translate_args(item, given, base)
    if not any(key in item.keys for key in ("path", "hf", "preset")) and _HF.fullmatch(name):
        item.set("hf", name)  # a section may be called after the repository itself
    return item


def _pair(item: Item, line: _Line) -> list[Pair]:
    """The flag and its value; nothing where it is off."""
    flag = ("-" if line.key in _SHORT else "--") + line.key
    value = line.value.lower()
    name = line.key.removeprefix("no-") if line.key not in _SWITCHES else line.key
    if name not in _SWITCHES:
        return [(flag, (line.value,) if line.value else ())]
    if value not in _YES | _NO | {""}:
        item.say(line.key, line.value, "allowed: true or false.")
        return []
    if value not in _NO:
        return [(flag, ())]
    if name != line.key:
        return [(f"--{name}", ())]  # no-NAME = false
    return [] if name in _ONE_WAY else [(f"--no-{name}", ())]
