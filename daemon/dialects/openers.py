"""The markers with which thinking and tool calls begin in a model's text, and where one may begin
at the end of what has come so far."""

from __future__ import annotations

import re

from daemon.dialects.call_forms import (
    UNREADABLE,
    AttributeForm,
    Calls,
    Form,
    GemmaForm,
    GlmForm,
    JsonForm,
    MistralForm,
    Verdict,
    XmlForm,
    closed,
)
from daemon.dialects.offered import Offered

FENCE = "```"
_FUNCTION = re.compile(r"<function=([^>\n]+)>")
_INVOKE = re.compile(r'<invoke name="([^">\n]+)">')
_MARKS = (
    "<tool_call>",
    "<function=",
    '<invoke name="',
    "<|tool_call>",
    "<|python_tag|>",
    "<TOOLCALL>",
    "<tools>",
    "<function_call>",
    "[TOOL_CALLS]",
)
_CLOSERS = {
    "<TOOLCALL>": ("</TOOLCALL>",),
    "<tools>": ("</tools>",),
    "<function_call>": ("</function_call>",),
    "<|python_tag|>": ("<|eom_id|>", "<|eot_id|>"),
}
_TOOL_CALL = "<tool_call>"
_LANGUAGES = frozenset({"", "json", "xml", "html", "tool_call", "tool_code", "text", "plaintext"})
# No marker in it: one that follows on the same line is a marker.
_FENCE_LINE = r"```[^\n`<\[]{0,40}\n"

# At a line's start, as far as can be seen: a line that may become a fence's.
_OPEN_FENCE = re.compile(r"(?:^|\n)[ \t]*(`{1,2}|```[^\n`<\[]{0,40})\Z")

GEMMA_THOUGHT = "<|channel>thought"
CHANNEL_END = "<channel|>"
THINK = "<think>"
THINK_END = "</think>"
BARE = ("Thinking Process:", "Here's a thinking process:")
"""How Qwen3.5 begins to think where it should not (seen by users of vllm-mlx)."""


class _ToolCallForm:
    """``<tool_call>``: what follows says which form it is."""

    def __init__(self, offered: Offered) -> None:
        self._offered = offered
        self._form: Form | None = None
        self._offset = 0

    def look(self, text: str, *, final: bool) -> Verdict:
        if self._form is None:
            start = len(_TOOL_CALL)
            bare = text[start:].lstrip()
            if not bare or ("<function=".startswith(bare) and not final):
                return UNREADABLE if final else None
            if bare[0] in "{[":
                self._form = JsonForm(self._offered, start, ("</tool_call>",))
            elif bare.startswith("<function="):
                self._form = XmlForm(self._offered, _FUNCTION, "</function>", ("</tool_call>",))
                self._offset = len(text) - len(bare)
            else:
                self._form = GlmForm(self._offered, start)
        return shifted(self._form, text, self._offset, final=final)


def shifted(form: Form, text: str, offset: int, *, final: bool) -> Verdict:
    """What ``form`` says of ``text`` from ``offset`` on."""
    if not offset:
        return form.look(text, final=final)
    verdict = form.look(text[offset:], final=final)
    return Calls(verdict.calls, verdict.end + offset) if isinstance(verdict, Calls) else verdict


class FenceForm:
    """A call alone in a fenced block."""

    def __init__(self, form: Form, offset: int) -> None:
        self._form = form
        self._offset = offset

    def look(self, text: str, *, final: bool) -> Verdict:
        verdict = shifted(self._form, text, self._offset, final=final)
        if not isinstance(verdict, Calls):
            return verdict
        end = closed(text, verdict.end, (FENCE,), final=final)
        if end is None:
            return None
        return Calls(verdict.calls, end)


class Openers:
    """The markers that count for one request."""

    def __init__(self, offered: Offered | None) -> None:
        self._offered = offered
        names = sorted(offered.schemas) if offered is not None else []
        self._elements = tuple([f"<{name}" for name in names])
        self.marks = _MARKS if names else ()
        literal = "|".join([re.escape(mark) for mark in (GEMMA_THOUGHT, *self.marks)])
        elements = "|".join([re.escape(element) for element in self._elements])
        elements = f"|(?P<element>{elements})(?=\\s)" if elements else ""
        self.any = re.compile(f"(?P<mark>{literal}){elements}|(?P<fence>{_FENCE_LINE})")
        """A marker's beginning, or a fence's line."""
        calls = "|".join([re.escape(mark) for mark in self.marks])
        self.calls = re.compile(f"(?P<mark>{calls})") if calls else None

    def form(self, text: str) -> tuple[Form, int] | None:
        """The form of the marker that ``text`` begins with, and the marker's length."""
        offered, match = self._offered, self.any.match(text)
        if offered is None or match is None or match["fence"] is not None:
            return None
        mark = match[0]
        if match["mark"] is None:
            return AttributeForm(offered, mark[1:]), len(mark)
        if mark == _TOOL_CALL:
            return _ToolCallForm(offered), len(mark)
        if mark == "<function=":
            behind = ("</tool_call>",)
            return XmlForm(offered, _FUNCTION, "</function>", behind), len(mark)
        if mark == '<invoke name="':
            return XmlForm(offered, _INVOKE, "</invoke>", ("</function_calls>",)), len(mark)
        if mark == "<|tool_call>":
            return GemmaForm(offered, len(mark)), len(mark)
        if mark == "[TOOL_CALLS]":
            return MistralForm(offered, len(mark)), len(mark)
        if mark == GEMMA_THOUGHT:
            return None
        return JsonForm(offered, len(mark), _CLOSERS[mark]), len(mark)

    def fenced(self, text: str, *, final: bool) -> tuple[Form, int] | bool | None:
        """Of a text that begins with a fence's line: the form in it; None: more text is needed;
        False: an ordinary block. Only what stands first in a block may be a call."""
        line = text[: text.index("\n") + 1]
        inner = text[len(line) :].lstrip()
        if self._offered is None or line[len(FENCE) :].strip().lower() not in _LANGUAGES:
            return False
        if not inner:
            return False if final else None
        offset = len(text) - len(inner)
        if inner[0] in "{[" and not inner.startswith("[TOOL"):
            if inner == "[" and not final:
                return None
            return FenceForm(JsonForm(self._offered, 0, marked=False), offset), len(line)
        known = self.form(inner)
        if known is not None:
            return FenceForm(known[0], offset), len(line)
        return None if not final and self.partial(inner) == 0 else False

    def partial(self, text: str) -> int:
        """Where a marker may begin that ``text`` breaks off in; its length if nowhere."""
        found = len(text)
        for sign in "<[":
            at = text.rfind(sign, max(0, len(text) - 100))
            if at >= 0:
                tail = text[at:]
                starts = (GEMMA_THOUGHT, *self.marks, *self._elements)
                if any(start.startswith(tail) for start in starts):
                    found = min(found, at)
        fence = _OPEN_FENCE.search(text, max(0, len(text) - 80))
        return found if fence is None else min(found, fence.start(1))
