"""Count the tokens of a chat with a model's own tokenizer and template. Run as a program.

It is started by its path with the Python of an engine, which has the libraries ``tokenizers`` and
``jinja2`` where ours has not; of ours it imports nothing. Arguments: the model's folder and, if it
has one of its own, the file of its template. It says ``{"template": BOOL}`` once it is ready; then
a line of JSON comes in for each chat (``messages``, ``tools``, ``chat_template_kwargs``) and one
goes out, ``{"tokens": N, "exact": BOOL}``. It ends with its input.

The prompt is made as ``transformers`` makes it (``apply_chat_template``), which would take ten
times as long to import and three times the memory.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

_MEMORY = 3 << 30  # bytes of address space: a vocabulary of 262,144 tokens takes a third of it
_MESSAGE = 4  # tokens around a message, and around a tool, where no template says it
_IMAGE = 1000


class Counter:
    """One model's tokenizer, and its template if it has one."""

    def __init__(self, folder: Path, template: Path | None) -> None:
        """Raises ImportError, OSError, ValueError, and what ``tokenizers`` raises for a file that
        it cannot read."""
        library = import_module("tokenizers")
        self._tokenizer = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = _read(folder / "tokenizer_config.json")
        self._special = _special(_read(folder / "special_tokens_map.json") | config)
        self._templates = {
            name: _compiled(text) for name, text in _templates(folder, template, config).items()
        }

    @property
    def templated(self) -> bool:
        """Is there a template?"""
        return bool(self._templates)

    def count(self, asked: dict[str, Any]) -> tuple[int, bool]:
        """Tokens, and whether that is what the engine would read."""
        messages = [_plain(message) for message in asked["messages"]]
        images = sum(images for _, images in messages)
        turns = [message for message, _ in messages]
        tools = asked.get("tools") or None
        prompt = self._prompt(turns, tools, asked.get("chat_template_kwargs") or {})
        if prompt is not None:
            return self._tokens(prompt) + _IMAGE * images, not images
        texts = [turn["content"] for turn in turns]
        texts += [json.dumps(turn["tool_calls"]) for turn in turns if turn.get("tool_calls")]
        texts += [json.dumps(tool, ensure_ascii=False) for tool in tools or ()]
        around = _MESSAGE * (len(turns) + len(tools or ())) + _IMAGE * images
        return sum(map(self._tokens, texts)) + around, False

    def _prompt(self, turns: list[Any], tools: Any, wishes: dict[str, Any]) -> str | None:
        """What the template makes of it; None: it refuses that, or there is none."""
        template = self._templates.get("tool_use" if tools else "default")
        template = template or self._templates.get("default")
        if template is None:
            return None
        given = {"documents": None, **self._special, **wishes, "messages": turns, "tools": tools}
        try:
            return str(template.render(**given, add_generation_prompt=True))
        except Exception:  # noqa: BLE001 - a template is a program of somebody else's
            return None

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _plain(message: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A message as engines give it to their templates, and how many images it had: its text in one
    piece, arguments of calls as objects."""
    plain, images = dict(message), 0
    content = message.get("content")
    if isinstance(content, list):
        images = sum(part.get("type") == "image_url" for part in content)
        content = "".join(part.get("text") or "" for part in content)
    plain["content"] = content or ""
    if message.get("tool_calls"):
        plain["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return plain, images


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    with contextlib.suppress(ValueError):  # as text, then
        function["arguments"] = json.loads(function.get("arguments") or "{}")
    return {**call, "function": function}


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    return value if isinstance(value, dict) else {}


def _special(config: dict[str, Any]) -> dict[str, str]:
    """``bos_token`` and its like, which templates name."""
    found = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _templates(folder: Path, own: Path | None, config: dict[str, Any]) -> dict[str, str]:
    """Texts of templates by name: ``default``, and ``tool_use`` in some older models."""
    file = own or folder / "chat_template.jinja"
    if own is not None or file.exists():
        return {"default": file.read_text(encoding="utf-8")}
    found = config.get("chat_template")
    if isinstance(found, str):
        return {"default": found}
    entries = found if isinstance(found, list) else []
    return {entry["name"]: entry["template"] for entry in entries if isinstance(entry, dict)}


def _compiled(text: str) -> Any:
    """A template in the sandbox that ``transformers`` has for it."""
    nodes, ext = import_module("jinja2.nodes"), import_module("jinja2.ext")
    sandbox = import_module("jinja2.sandbox")

    def generation(_extension: Any, parser: Any) -> Any:
        line = next(parser.stream).lineno
        inside = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(inside, lineno=line)

    # {% generation %} marks what is learnt from: here it is what stands in it.
    marked = type("Marked", (ext.Extension,), {"tags": {"generation"}, "parse": generation})

    def raise_exception(message: str) -> NoReturn:
        raise ValueError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)

    world = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[marked, ext.loopcontrols]
    )
    world.filters["tojson"] = tojson
    world.globals["raise_exception"] = raise_exception
    world.globals["strftime_now"] = time.strftime
    return world.from_string(text)


def _bound() -> None:
    """A hostile template or file takes no more than this (a Mac does not keep to it)."""
    import resource

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def main(argv: list[str]) -> int:
    """Serve until the input ends; 1 if it cannot, with the reason as its one line."""
    _bound()
    try:
        counter = Counter(Path(argv[0]), Path(argv[1]) if len(argv) > 1 else None)
    except Exception as error:  # noqa: BLE001 - told, whatever it is
        _say({"error": f"{type(error).__name__}: {error}"[:500]})
        return 1
    _say({"template": counter.templated})
    for line in sys.stdin.buffer:
        try:
            tokens, exact = counter.count(json.loads(line))
            _say({"tokens": tokens, "exact": exact})
        except Exception as error:  # noqa: BLE001 - one chat's, and the next may be counted
            _say({"error": f"{type(error).__name__}: {error}"[:500]})
    return 0


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
