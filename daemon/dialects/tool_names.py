"""Tools of the Responses API as functions, and their calls back as what they were.

Codex offers namespaces of functions, custom (free-text) tools and a tool search that it runs
itself (recorded); chat engines know functions alone. So names are flattened, free text becomes
one string argument, and a table says what each name stood for.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum, auto

from daemon.dialects.chat_request import function_tool
from daemon.dialects.fields import Json, a_string, an_array, an_object, dumps, loads

NAME_LIMIT = 64
"""Characters of a function's name at OpenAI; engines and templates go by it."""
_BAD = re.compile(r"[^A-Za-z0-9_-]")
_FREE_TEXT: Json = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The tool's input, as it is."}},
    "required": ["input"],
    "additionalProperties": False,
}


class Kind(Enum):
    """What a function stands for."""

    FUNCTION = auto()
    CUSTOM = auto()
    SEARCH = auto()


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the client knows it."""

    name: str
    namespace: str | None = None
    kind: Kind = Kind.FUNCTION


@dataclass(slots=True)
class Names:
    """The functions that a request's tools became, and the way back."""

    tools: dict[str, Tool] = field(default_factory=dict)
    functions: list[Json] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def tool(self, flat: str) -> Tool:
        """What the model's ``flat`` name stands for; a name of its own invention stays itself."""
        return self.tools.get(flat) or Tool(flat)

    def flat(self, tool: Tool) -> str:
        """The function's name of ``tool``, which need not be offered (any more)."""
        base = flattened(tool.namespace, tool.name)
        name, again = base, 1
        while name in self.tools and self.tools[name] != tool:
            again += 1
            tail = f"_{again}"
            name = base[: NAME_LIMIT - len(tail)] + tail
        self.tools[name] = tool
        return name

    def add(self, tools: object, path: str, namespace: str | None = None) -> None:
        """Take over an array of tools. Raises ProblemError for what is none."""
        for place, item in enumerate(an_array(tools, path)):
            at = f"{path}.{place}"
            tool = an_object(item, at)
            kind = tool.get("type")
            if kind == "namespace":
                inner = a_string(tool.get("name"), f"{at}.name")
                self.add(tool.get("tools"), f"{at}.tools", inner)
            elif kind == "function":
                self._function(tool, at, namespace)
            elif kind == "custom":
                self._custom(tool, at, namespace)
            elif kind == "tool_search" and tool.get("execution") == "client":
                known = Tool("tool_search", namespace, Kind.SEARCH)
                self._offer(known, tool.get("description"), tool.get("parameters"))
            else:
                self.notes.append(f"{at}: a tool of type {kind!r} is not served here; left out.")

    def _function(self, tool: Json, path: str, namespace: str | None) -> None:
        inner = tool.get("function")  # as chat completions nest it; some clients mix the two
        tool = inner if isinstance(inner, dict) else tool
        known = Tool(a_string(tool.get("name"), f"{path}.name"), namespace)
        self._offer(known, tool.get("description"), tool.get("parameters"), tool.get("strict"))

    def _custom(self, tool: Json, path: str, namespace: str | None) -> None:
        known = Tool(a_string(tool.get("name"), f"{path}.name"), namespace, Kind.CUSTOM)
        description = str(tool.get("description") or "")
        form = tool.get("format")
        if isinstance(form, dict) and form.get("type") == "grammar":
            syntax = form.get("syntax") or "given"
            grammar = form.get("definition") or ""
            description += f"\n\nThe input must follow this {syntax} grammar:\n{grammar}"
        self._offer(known, description, _FREE_TEXT)

    def _offer(
        self, tool: Tool, description: object, parameters: object, strict: object = None
    ) -> None:
        name = self.flat(tool)
        if any(known["function"]["name"] == name for known in self.functions):
            return  # a search that found it again
        self.functions.append(function_tool(name, description, parameters, strict))


def flattened(namespace: str | None, name: str) -> str:
    """One name of at most 64 allowed characters. ``a`` in ``n`` becomes ``n__a``."""
    whole = f"{namespace}__{name}" if namespace else name
    plain = _BAD.sub("_", whole)
    if len(plain) <= NAME_LIMIT:
        return plain or "_"
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{plain[: NAME_LIMIT - 9]}_{digest}"


def wrapped(text: str) -> str:
    """A custom tool's free text as a function's arguments."""
    return dumps({"input": text})


def unwrapped(arguments: str) -> str:
    """The free text that a model put into a function's arguments, however it did."""
    value = loads(arguments)
    if isinstance(value, dict):
        inner = value.get("input")
        if isinstance(inner, str):
            return inner
        texts = [item for item in value.values() if isinstance(item, str)]
        return texts[0] if len(value) == len(texts) == 1 else arguments
    return value if isinstance(value, str) else arguments
