"""The tools that a request offers, and whether a call that stands in text is one of theirs."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.dialects.fields import Json, dumps, loads
from daemon.dialects.schemas import converted, fits

_NAMES = ("name", "tool", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters", "input", "args")
CALL_KEYS = frozenset({*_NAMES, *_ARGUMENTS, "type", "id"})
"""What an object that is a call may hold."""


@dataclass(frozen=True, slots=True)
class Found:
    """A call as it was read: its arguments fit."""

    name: str
    arguments: str  # JSON


class Offered:
    """Tools by name."""

    def __init__(self, tools: list[Json]) -> None:
        self.schemas: dict[str, Json] = {}
        for tool in tools:
            function = tool.get("function")
            if isinstance(function, dict) and isinstance(function.get("name"), str):
                schema = function.get("parameters")
                self.schemas[function["name"]] = schema if isinstance(schema, dict) else {}

    def properties(self, name: str) -> Json:
        """The schemas of a tool's arguments."""
        known = self.schemas.get(name, {}).get("properties")
        return known if isinstance(known, dict) else {}

    def call(self, name: object, arguments: object) -> Found | None:
        """The call, if ``arguments`` (an object, or its JSON) fit a tool of that name."""
        if isinstance(arguments, str):
            arguments = loads(arguments)
        if not isinstance(name, str) or name not in self.schemas:
            return None
        if not isinstance(arguments, dict) or not fits(arguments, self.schemas[name]):
            return None
        return Found(name, dumps(arguments))

    def texts(self, name: str, values: dict[str, str]) -> Found | None:
        """The same of arguments that are all text, as XML forms have them."""
        known = self.properties(name)
        values = self._renamed(name, values)
        typed = {key: converted(text, known.get(key), loads) for key, text in values.items()}
        found = self.call(name, typed)
        return found or self.call(name, values)

    def _renamed(self, name: str, values: dict[str, str]) -> dict[str, str]:
        """``path`` for ``file_path``: a name that is the end of one missing argument's."""
        known = self.properties(name)
        free = [key for key in known if key not in values]
        found = {}
        for key, text in values.items():
            longer = [one for one in free if one.endswith(f"_{key}")] if key not in known else []
            found[longer[0] if len(longer) == 1 else key] = text
        return found

    def objects(self, value: object, *, marked: bool) -> list[Found]:
        """The calls of an object or an array of them; none if any of them is none.

        ``marked``: a marker said that it is a call, so that arguments may be missing.
        """
        if isinstance(value, list):
            every = [self.objects(item, marked=marked) for item in value]
            return [call for calls in every for call in calls] if all(every) else []
        if not isinstance(value, dict) or not value.keys() <= CALL_KEYS:
            return []
        inner = value.get("function")
        if isinstance(inner, dict):
            return self.objects(inner, marked=marked)
        name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
        given = [value[key] for key in _ARGUMENTS if key in value]
        if len(given) != 1 and (given or not marked):
            return []
        found = self.call(name, given[0] if given else {})
        return [found] if found is not None else []
