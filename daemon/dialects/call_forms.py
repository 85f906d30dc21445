"""The forms in which models write tool calls as text, each read a piece at a time.

A form is given all text from its marker on, again and again as it grows, and says: a call ends
here; not yet; or: this is none. It remembers how far it looked, so that a long file body costs
no more than its length. Sources: the chat templates of Qwen (Hermes), Qwen3-Coder and Nemotron,
Llama 3, Gemma 4, GLM, Mistral; Qwen2.5-Coder's own invention as users saw it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from daemon.dialects.fields import loads
from daemon.dialects.gemma import gemma_call
from daemon.dialects.offered import CALL_KEYS, Found, Offered


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls were read; the text behind ``end`` is no part of them."""

    calls: list[Found]
    end: int


@dataclass(frozen=True, slots=True)
class NoCall:
    """This is text after all."""

    why: str


Verdict = Calls | NoCall | None
"""None: more text is needed."""

UNKNOWN = NoCall("unknown tool")
MISFIT = NoCall("arguments do not fit")
UNREADABLE = NoCall("unreadable")


class Form(Protocol):
    """One form. ``final``: no more text will come, and the model had ended by itself."""

    def look(self, text: str, *, final: bool) -> Verdict: ...


def closed(text: str, at: int, closers: tuple[str, ...], *, final: bool) -> int | None:
    """Where ``text`` goes on behind blanks and one closing marker, which may be missing; None:
    more text is needed to know."""
    rest = text[at:]
    bare = rest.lstrip()
    blanks = len(rest) - len(bare)
    for closer in closers:
        if bare.startswith(closer):
            return at + blanks + len(closer)
    if not final and any(closer.startswith(bare) for closer in closers):
        return None
    return at


class JsonEnd:
    """Finds the end of a JSON object or array that begins at ``at``."""

    _OUTSIDE = re.compile(r'["{}\[\]]')
    _INSIDE = re.compile(r'["\\]')

    def __init__(self, at: int) -> None:
        self._at = at
        self._depth = 0
        self._string = False

    def find(self, text: str) -> int | None:
        """The place behind its last bracket; None if that is not there yet."""
        while True:
            met = (self._INSIDE if self._string else self._OUTSIDE).search(text, self._at)
            if met is None:
                self._at = len(text)
                return None
            sign, at = met[0], met.end()
            if sign == "\\":
                if at >= len(text):
                    self._at = met.start()
                    return None
                self._at = at + 1
                continue
            self._at = at
            if sign == '"':
                self._string = not self._string
            else:
                self._depth += 1 if sign in "{[" else -1
                if self._depth <= 0:
                    return at


_NAMED = re.compile(r'\{\s*"(?:name|tool|tool_name)"\s*:\s*"((?:[^"\\]|\\.)*)"')
_BEGUN = re.compile(r'\s*\[?\s*(?:\{\s*(?:"([^"\\]*)(?:"\s*)?)?)?')
_FIRST_KEY = re.compile(r'\s*\[?\s*\{\s*"([^"\\]*)"\s*:')


class JsonForm:
    """A JSON object, or an array of them, behind a marker or alone."""

    def __init__(
        self, offered: Offered, start: int, closers: tuple[str, ...] = (), *, marked: bool = True
    ) -> None:
        """``start``: where JSON may begin. Not ``marked``: it must look like a call from its
        first key on, so that other JSON is not held back."""
        self._offered = offered
        self._start = start
        self._closers = closers
        self._marked = marked
        self._end: JsonEnd | None = None
        self._read: tuple[list[Found], int] | None = None
        self._checked = False

    def look(self, text: str, *, final: bool) -> Verdict:
        if self._end is None:
            rest = text[self._start :].lstrip()
            if not rest:
                return UNREADABLE if final else None
            if rest[0] not in "{[":
                return UNREADABLE
            self._end = JsonEnd(len(text) - len(rest))
        if not self._checked:
            refused = self._early(text)
            if refused is not None:
                return refused
        if self._read is None:
            end = self._end.find(text)
            if end is None:
                return UNREADABLE if final else None
            value = loads(text[self._start : end].strip())
            calls = self._offered.objects(value, marked=self._marked)
            if not calls:
                return UNREADABLE if value is None else MISFIT
            self._read = calls, end
        calls, end = self._read
        behind = closed(text, end, self._closers, final=final) if self._closers else end
        return None if behind is None else Calls(calls, behind)

    def _early(self, text: str) -> NoCall | None:
        key = _FIRST_KEY.match(text, self._start)
        if key is None:
            begun = _BEGUN.fullmatch(text, self._start)
            likely = begun is not None and any(one.startswith(begun[1] or "") for one in CALL_KEYS)
            return None if likely or self._marked else UNREADABLE
        if not self._marked and key[1] not in CALL_KEYS:
            return UNREADABLE
        named = _NAMED.search(text, self._start)
        if named is not None and named.start() <= key.end():
            self._checked = True
            return None if named[1] in self._offered.schemas else UNKNOWN
        self._checked = key[1] not in ("name", "tool", "tool_name")
        return None


_PARAMETER = re.compile(
    r'<parameter(?:=| name=")([^>"\n]+?)"?>(.*?)</parameter>\s*(?=<parameter[= ]|$)', re.DOTALL
)


class XmlForm:
    """``<function=NAME>`` with ``<parameter=KEY>`` elements, or with one JSON object."""

    def __init__(
        self, offered: Offered, name: re.Pattern[str], closer: str, behind: tuple[str, ...]
    ) -> None:
        """``name`` matches the opening element; ``behind``: what may follow the closing one."""
        self._offered = offered
        self._opening = name
        self._closer = closer
        self._behind = behind
        self._at = 0
        self._json: JsonForm | None = None

    def look(self, text: str, *, final: bool) -> Verdict:
        opening = self._opening.match(text)
        if opening is None:
            broken = final or len(text) > _LONGEST_NAME or "\n" in text
            return UNREADABLE if broken else None
        name = opening[1].strip()
        if name not in self._offered.schemas:
            return UNKNOWN
        start = opening.end()
        self._at = max(self._at, start)
        while True:
            end = text.find(self._closer, self._at)
            if end < 0:
                break
            body = text[start:end].strip()
            whole = body.endswith("</parameter>") or "<parameter" not in body
            if whole:
                behind = closed(text, end + len(self._closer), self._behind, final=final)
                if behind is None:
                    return None
                found = self._read(name, body)
                if found is not None:
                    return Calls([found], behind)
                if "<parameter" not in body:
                    return MISFIT
            self._at = end + len(self._closer)
        body = text[start:].strip()
        if final:  # the last marker forgotten
            found = self._read(name, body) if body.endswith("</parameter>") else None
            return Calls([found], len(text)) if found is not None else UNREADABLE
        self._at = max(self._at, len(text) - len(self._closer))
        return None

    def _read(self, name: str, body: str) -> Found | None:
        if not body.startswith("<parameter"):
            return self._offered.call(name, loads(body) if body else {})
        values, at = {}, 0
        for match in _PARAMETER.finditer(body):
            if match.start() != at:
                return None
            at = match.end()
            said = match[2]
            values[match[1].strip()] = said[1:].removesuffix("\n") if said[:1] == "\n" else said
        return self._offered.texts(name, values) if at == len(body) else None


# Bounded, so that a text is given up at the same place however it was cut.
_GLM_NAME = re.compile(r"\s{0,20}([^\s<{]{1,128})\s{0,20}(?=<)")
_GEMMA_NAME = re.compile(r"\s{0,20}call:\s{0,20}([^\s{]{1,128})\s{0,20}\{")
_MISTRAL_NAME = re.compile(
    r"\s{0,20}([A-Za-z0-9_.-]{1,128})(?:\[CALL_ID\]\w{0,40})?(?:\[ARGS\])?\s{0,20}(?=\{)"
)
_LONGEST_NAME = 260
_PAIR = re.compile(
    r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*(?=<arg_key>|$)", re.DOTALL
)


class GlmForm:
    """``<tool_call>NAME`` with ``<arg_key>`` and ``<arg_value>`` pairs."""

    _CLOSER = "</tool_call>"

    def __init__(self, offered: Offered, start: int) -> None:
        self._offered = offered
        self._start = start
        self._at = start

    def look(self, text: str, *, final: bool) -> Verdict:
        head = _GLM_NAME.match(text, self._start)
        if head is None:
            return UNREADABLE if final or len(text) - self._start > _LONGEST_NAME else None
        if head[1] not in self._offered.schemas:
            return UNKNOWN
        while (end := text.find(self._CLOSER, self._at)) >= 0:
            found = self._read(head[1], text[head.end() : end].rstrip())
            if found is not None:
                return Calls([found], end + len(self._CLOSER))
            self._at = end + 1
        if final:
            found = self._read(head[1], text[head.end() :].rstrip())
            return Calls([found], len(text)) if found is not None else MISFIT
        self._at = max(self._at, len(text) - len(self._CLOSER))
        return None

    def _read(self, name: str, body: str) -> Found | None:
        values, at = {}, 0
        for match in _PAIR.finditer(body):
            if match.start() != at:
                return None
            at = match.end()
            values[match[1].strip()] = match[2]
        return self._offered.texts(name, values) if at == len(body) else None


class GemmaForm:
    """``<|tool_call>call:NAME{key:<|"|>text<|"|>}<tool_call|>``."""

    _CLOSER = "<tool_call|>"

    def __init__(self, offered: Offered, start: int) -> None:
        self._offered = offered
        self._start = start
        self._at = start

    def look(self, text: str, *, final: bool) -> Verdict:
        head = _GEMMA_NAME.match(text, self._start)
        if head is None:
            return UNREADABLE if final or len(text) - self._start > _LONGEST_NAME else None
        if head[1] not in self._offered.schemas:
            return UNKNOWN
        while True:
            end = text.find(self._CLOSER, self._at)
            if end < 0 and not final:
                self._at = max(self._start, len(text) - len(self._CLOSER))
                return None
            read = gemma_call(text, head.end() - 1, len(text) if end < 0 else end)
            found = self._offered.call(head[1], read)
            if found is not None:
                return Calls([found], len(text) if end < 0 else end + len(self._CLOSER))
            if end < 0 or read is not None:
                return MISFIT if read is not None else UNREADABLE
            self._at = end + 1  # within a text


class MistralForm:
    """``[TOOL_CALLS]`` with an array, or with ``NAME{…}`` or ``NAME[ARGS]{…}``."""

    def __init__(self, offered: Offered, start: int) -> None:
        self._offered = offered
        self._start = start
        self._json: JsonForm | None = None
        self._end: JsonEnd | None = None

    def look(self, text: str, *, final: bool) -> Verdict:
        rest = text[self._start :].lstrip()
        if self._json is not None or rest[:1] == "[":
            self._json = self._json or JsonForm(self._offered, self._start)
            return self._json.look(text, final=final)
        head = _MISTRAL_NAME.match(text, self._start)
        if head is None:
            return UNREADABLE if final or len(rest) > _LONGEST_NAME else None
        if head[1] not in self._offered.schemas:
            return UNKNOWN
        self._end = self._end or JsonEnd(head.end())
        end = self._end.find(text)
        if end is None:
            return UNREADABLE if final else None
        found = self._offered.call(head[1], text[head.end() : end])
        return Calls([found], end) if found is not None else MISFIT


class AttributeForm:
    """``<Write path="…" content="…"/>``: an element named as the tool.

    Quotes inside are not escaped, so only the end of the answer tells where it ends: all of it is
    held back, and the last ``"/>`` before the next such element counts.
    """

    _END = re.compile(r'"\s*/>')

    def __init__(self, offered: Offered, name: str) -> None:
        self._offered = offered
        self._name = name

    def look(self, text: str, *, final: bool) -> Verdict:
        if not final:
            return None
        names = "|".join(map(re.escape, self._offered.schemas))
        following = re.compile(rf"\n\s*<(?:{names})\s").search(text, 1)
        piece = text[: following.start()] if following is not None else text
        ends = list(self._END.finditer(piece))
        if not ends:
            return UNREADABLE
        known = self._offered.properties(self._name)
        keys = {*known, *[key.rpartition("_")[2] for key in known]}
        found = self._read(piece[len(self._name) + 1 : ends[-1].start() + 1], keys)
        call = self._offered.texts(self._name, found) if found else None
        return Calls([call], ends[-1].end()) if call is not None else MISFIT

    @staticmethod
    def _read(body: str, keys: set[str]) -> dict[str, str]:
        known = "|".join(map(re.escape, sorted(keys)))
        pattern = rf'\s+({known})\s*=\s*"(.*?)"(?=\s+(?:{known})\s*=\s*"|$)'
        values, at = {}, 0
        for match in re.compile(pattern, re.DOTALL).finditer(body):
            if match.start() != at:
                return {}
            at = match.end()
            said = match[2].replace('\\"', '"')
            values[match[1]] = said if "\n" in said else said.replace("\\n", "\n")
        return values if at == len(body) else {}
