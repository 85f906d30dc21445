"""Fields of a JSON body set, defaulted or taken out, without reading what they hold.

One pass finds where each value at the top begins and ends (msgspec keeps them as views of the
body); the body is then put together anew from these, so that no number, string or image of the
client's is written again, or copied.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from daemon.core.problems import Code, Problem, ProblemError
from daemon.ports import Edits, Route
from daemon.relay.body import Body, Parts, odd_case

EDITED = frozenset({Route.CHAT, Route.COMPLETIONS, Route.MESSAGES, Route.RESPONSES, Route.INFILL})
"""Routes on which parameters mean anything: those that generate text."""
_LARGE = 16 * 1024  # bytes of a value; what is shorter is not worth a piece of its own
_NOTHING = (b"null", b"[]")
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_Value = bytes | memoryview


def edited(body: Body, edits: Edits, model: str | None = None, *, given: bool = False) -> Parts:
    """``body`` with ``edits`` done, and with ``model`` as its model if it names one (``given``:
    also if it names none).

    A field that is there twice comes out once: with its last value, which is the one that most
    readers see. Raises ProblemError where the body is no JSON object, or has ``Model``.
    """
    try:
        found = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = Problem(Code.INVALID_JSON, f"The body is not valid JSON: {error}.")
        raise ProblemError(problem) from error
    if any(name.lower() == "model" and name != "model" for name in found):
        raise odd_case()
    fields: dict[str, _Value] = {name: memoryview(value) for name, value in found.items()}
    named = fields.pop("model", None)
    for name in edits.strip:
        fields.pop(name, None)
    defaults: Mapping[str, bytes] = edits.default
    if edits.with_tools and not _says_nothing(fields.get("tools")):
        defaults = {**defaults, **edits.with_tools}
    for name, value in defaults.items():
        if _says_nothing(fields.get(name)):
            fields[name] = value
    fields.update(edits.force)
    if model is not None and (given or named is not None):
        fields["model"] = msgspec.json.encode(model)
    elif named is not None:
        fields["model"] = named
    else:
        fields.pop("model", None)
    return _written(fields)


def _says_nothing(value: _Value | None) -> bool:
    return value is None or bytes(value[:8]).strip() in _NOTHING


def _written(fields: Mapping[str, _Value]) -> Parts:
    parts: list[_Value] = []
    small = bytearray()
    border = b"{"
    for name, value in fields.items():
        small += border + msgspec.json.encode(name) + b":"
        border = b","
        if len(value) > _LARGE:
            parts += (bytes(small), value)
            small.clear()
        else:
            small += value
    small += b"}" if fields else b"{}"
    return (*parts, bytes(small))
