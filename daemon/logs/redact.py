"""Takes secrets out of text that leaves the machine's own files. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

MARK = "***"
REMEMBERED = 64
SHORTEST = 8  # characters; a shorter "secret" would blacken ordinary words

_KEY_NAMES = (
    r"[\w-]*api[_-]?key|[\w-]*(?:auth|access|refresh|id|hf|session|bearer|secret)[_-](?:token|key)"
    r"|client[_-]secret|password"
)
# between a name and its value: as a header, JSON (also inside JSON), a pair in Python, a flag
_BETWEEN = r"""\\{0,8}["']?[ \t]*[:=,][ \t]*(?:b?\\{0,8}["'])?"""
# what is itself the name of something secret is no value
_VALUE = (
    rf"""(?!(?:{_KEY_NAMES}|token|(?:proxy-)?authorization)\\{{0,8}}["']?[ \t]*[:=])"""
    r"""[^\s\x00-\x1f"'\\,;<>(){}\[\]&]+"""
)
_RULES = (
    # the scheme stays: it says what was tried
    (
        rf"(?i)(?<![\w-])((?:proxy-)?authorization{_BETWEEN}(?:(?:bearer|basic|token)[ \t]+)?)"
        rf"(?!(?:bearer|basic|token)[ \t]){_VALUE}",
        rf"\g<1>{MARK}",
    ),
    (rf"(?i)(?<![\w-])({_KEY_NAMES})({_BETWEEN}){_VALUE}", rf"\g<1>\g<2>{MARK}"),
    (rf"(?i)(?<![\w-])(--(?:{_KEY_NAMES})[ \t]+){_VALUE}", rf"\g<1>{MARK}"),
    # with a space ("eos token = 2") it is an engine's talk of its vocabulary
    (rf"(?i)(?<![\w-])(token=){_VALUE}", rf"\g<1>{MARK}"),
    (rf"""(?i)(["']token\\{{0,8}}["'][ \t]*:[ \t]*\\{{0,8}}["']){_VALUE}""", rf"\g<1>{MARK}"),
    (r"(?i)(?<![a-z0-9])(bearer[ \t]+)[a-z0-9._~+/=-]{8,}", rf"\g<1>{MARK}"),
    # by their shape: Hugging Face, OpenAI and Anthropic, ours
    (r"(?<![A-Za-z0-9])(hf_)[A-Za-z0-9]{12,}", rf"\g<1>{MARK}"),
    (r"(?<![A-Za-z0-9])(sk-|mp_)[A-Za-z0-9_-]{12,}", rf"\g<1>{MARK}"),
    # one word without a dash: models may be called mp-…, too
    (r"(?<![A-Za-z0-9])(mp-)[A-Za-z0-9]{16,}", rf"\g<1>{MARK}"),
)
_COMPILED = tuple((re.compile(pattern), by) for pattern, by in _RULES)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` without authorization and key values, tokens by their shape, and ``secrets``.

    ``secrets`` are those of this start (a backend's key); shorter ones than ``SHORTEST`` are
    ignored. Idempotent.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, MARK)
    for pattern, by in _COMPILED:
        text = pattern.sub(by, text)
    return text


class Redactor:
    """:func:`redact` with the secrets of this run, the last :data:`REMEMBERED` of them: what an
    engine has said stays in its log when its key opens nothing any more."""

    def __init__(self) -> None:
        self._secrets: tuple[str, ...] = ()

    def add(self, secret: str) -> None:
        """Hide ``secret`` from now on."""
        self._secrets = (*self._secrets, secret)[-REMEMBERED:]

    def __call__(self, text: str) -> str:
        """May be called in any thread."""
        return redact(text, self._secrets)
