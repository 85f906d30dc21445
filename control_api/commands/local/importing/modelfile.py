"""Ollama's ``Modelfile``, and the manifest of a model that Ollama has pulled.

A Modelfile: instructions of one line, or with text between three quotes (Ollama,
``docs/modelfile``). A manifest: see ``daemon.discovery.ollama``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from control_api.commands.local.importing.llama_args import anchored
from control_api.commands.local.importing.reading import Document, sayable
from control_api.commands.local.importing.values import Imported, Item, clean_name
from daemon.discovery.ollama import SAME

_WORDS: Final = frozenset(
    {"FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "REQUIRES",
     "RENDERER", "PARSER", "DRAFT"}
)  # fmt: skip
_HUB: Final = re.compile(
    r"(?:https?://)?(?:hf\.co|huggingface\.co)/([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:[\w.-]+)?"
)
SMALL: Final = ("params", "template", "system")  # kinds of files that are read
KINDS: Final = ("model", "projector", "adapter", *SMALL)
_FLAGS: Final = {"num_gpu": "-ngl", "num_batch": "-b", "num_thread": "-t"}


@dataclass(slots=True)
class Recipe:
    """What a Modelfile or a manifest says. ``weights``: as ``FROM`` has it. Parameters may stand
    several times (``stop``)."""

    weights: str = ""
    projector: str = ""
    adapters: list[str] = field(default_factory=list)
    parameters: list[tuple[str, str]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # TEMPLATE, SYSTEM, LICENSE, …
    messages: int = 0


Look = Callable[[str], "Recipe | None"]
"""Looks an Ollama name up; None: it is not on this machine."""


def translate(text: str, source: str, name: str, base: Path, look: Look) -> Imported:
    """``name``: what the model is to be called. Raises ConfigError."""
    recipe = read(text, source)
    return of_recipe(recipe, source, name, base, look)


def of_recipe(recipe: Recipe, source: str, name: str, base: Path, look: Look) -> Imported:
    found = Imported(source)
    item = Item(clean_name(name))
    try:
        _weights(item, recipe, base, look)
    except LookupError as error:
        found.skipped[name] = str(error)
        return found
    _parameters(item, recipe.parameters)
    if recipe.adapters:
        loras = [word for path in recipe.adapters for word in ("--lora", anchored(path, base))]
        item.keys["args"] = [*item.keys.get("args", ()), *loras]
    _texts(item, recipe)
    found.items.append(item)
    return found


def read(text: str, source: str) -> Recipe:
    """The instructions of a Modelfile. Raises ConfigError with the lines that are none."""
    document, recipe = Document(source), Recipe()
    lines = text.splitlines()
    index = 0
    while index < len(lines):
        number, line = index + 1, lines[index].strip()
        index += 1
        if not line or line.startswith("#"):
            continue
        word, _, value = line.partition(" ")
        word, value = word.upper(), value.strip()
        document.lines[(word,)] = number
        if word not in _WORDS:
            allowed = ", ".join(sorted(_WORDS))
            document.wrong((word[:40],), "no instruction", allowed)
            document.lines.pop((word,), None)
            continue
        opened = value.count('"""') == 1
        while opened and index < len(lines):
            value += "\n" + lines[index]
            opened = value.count('"""') < 2
            index += 1
        if opened:
            document.wrong((word,), "three quotes that are not closed", '"""')
        _instruction(document, recipe, word, _unquoted(value))
    if not recipe.weights and not document.mistakes:
        document.wrong(("FROM",), "nothing", "a file, a folder, or the name of a model")
    document.check()
    return recipe


def _unquoted(value: str) -> str:
    for quote in ('"""', '"'):
        if len(value) >= 2 * len(quote) and value.startswith(quote) and value.endswith(quote):
            return value[len(quote) : -len(quote)]
    return value


def _instruction(document: Document, recipe: Recipe, word: str, value: str) -> None:
    if word == "FROM":
        recipe.weights = recipe.weights or value
        if not value:
            document.wrong((word,), "nothing", "a file, a folder, or the name of a model")
    elif word == "PARAMETER":
        name, _, setting = value.partition(" ")
        if not setting.strip():
            document.wrong((word,), value[:60] or "nothing", "a name and a value")
        recipe.parameters.append((name.lower(), _unquoted(setting.strip())))
    elif word == "ADAPTER":
        recipe.adapters.append(value)
    elif word == "MESSAGE":
        recipe.messages += 1
    else:
        recipe.texts[word] = value


# ---------------------------------------------------------------- manifests


def of_files(files: Mapping[str, Sequence[Path]]) -> Recipe:
    """What the files of a manifest make, by their kinds; the small ones are still to be added."""
    recipe = Recipe(weights=str(files["model"][0]))
    recipe.projector = str(files["projector"][0]) if files.get("projector") else ""
    recipe.adapters = [str(path) for path in files.get("adapter", ())]
    return recipe


def add_small(recipe: Recipe, kind: str, text: str, source: str) -> None:
    """What a small layer says. Raises ConfigError."""
    if kind != "params":
        recipe.texts[kind.upper()] = text
        return
    document = Document(source)
    values = read_json(document, text)
    if not isinstance(values, dict):
        document.wrong((), "something else", "a table of parameters")
    document.check()
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            recipe.parameters.append((str(name), one if isinstance(one, str) else json.dumps(one)))


def read_json(document: Document, text: str) -> Any:
    """The value; a mistake is kept where it is none. Nesting and numbers without end are told."""
    try:
        values = json.loads(text)
        json.dumps(values)
    except RecursionError:
        document.wrong((), "endless nesting", "JSON")
        return None
    except ValueError as error:
        line = getattr(error, "lineno", None)
        if line is not None:
            document.lines[()] = line
        document.wrong((), str(getattr(error, "msg", "text that cannot be read"))[:80], "JSON")
        return None
    if not sayable(json.dumps(values, ensure_ascii=False)):
        document.wrong((), "half a character", "text")
        return None
    return values


# ---------------------------------------------------------------- our words


def _weights(item: Item, recipe: Recipe, base: Path, look: Look) -> None:
    """``path`` or ``hf``. LookupError where ``FROM`` names what is not here."""
    named = recipe.weights
    if match := _HUB.fullmatch(named):
        item.set("hf", match[1] + (match[2] or ""))
    elif named.startswith(("/", "~", ".")) or named.endswith((".gguf", ".safetensors")):
        item.set("path", anchored(named, base))
    else:
        under = look(named)
        if under is None:
            raise LookupError(
                f"Ollama has no model {named} on this machine: `ollama pull {named}`, or name the "
                "weights with `ctl add`."
            )
        item.set("path", under.weights)
        recipe.projector = recipe.projector or under.projector
        own = {name for name, _ in recipe.parameters}
        recipe.parameters[:0] = [pair for pair in under.parameters if pair[0] not in own]
        recipe.texts = {**under.texts, **recipe.texts}
        recipe.adapters[:0] = under.adapters
    if recipe.projector:
        item.set("mmproj", recipe.projector)


def _parameters(item: Item, given: Sequence[tuple[str, str]]) -> None:
    default: dict[str, Any] = {}
    args: list[str] = []
    stops = [value for name, value in given if name == "stop"]
    for name, value in dict(given).items():
        if name == "stop":
            continue
        if name == "num_ctx" and _whole(value) is not None and int(value) > 0:
            item.set("ctx", int(value))
        elif name == "num_predict" and _whole(value) is not None:
            if int(value) > 0:
                default["max_tokens"] = int(value)
        elif name in _FLAGS and _whole(value) is not None:
            if not (name == "num_gpu" and not 0 <= int(value) < 99):
                args += [_FLAGS[name], value]
        elif name in SAME and (number := _number(value, SAME[name])) is not None:
            default[name] = number
        else:
            item.say(f"PARAMETER {name}", value, "modelport has nothing of that name.")
    if stops:
        default["stop"] = stops
    if default:
        item.set("params", {"default": default})
    if args:
        item.set("args", args)


def _whole(value: str) -> int | None:
    return int(value) if re.fullmatch(r"-?\d{1,9}", value) else None


def _number(value: str, kind: Callable[[str], float]) -> float | None:
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 2**53 else None  # not for inf and nan


_TEXTS: Final[Mapping[str, str]] = {
    "TEMPLATE": "a template of Go; the one in the weights is used (`template`: another one).",
    "SYSTEM": "clients send their own system message.",
    "LICENSE": "there is no place for it.",
    "REQUIRES": "a version of Ollama.",
}


def _texts(item: Item, recipe: Recipe) -> None:
    for word, text in recipe.texts.items():
        shown = "" if word in ("TEMPLATE", "LICENSE") else text
        item.say(word, shown, _TEXTS.get(word, "a part of Ollama itself."))
    if recipe.messages:
        item.say("MESSAGE", f"{recipe.messages} of them", "clients send the conversation.")
