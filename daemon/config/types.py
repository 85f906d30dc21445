"""The units of the settings: bytes, seconds, tokens, shares; each read from what people write.

Every reader raises a ``PydanticCustomError`` of type ``setting`` whose context holds ``allowed``
and ``hint``, so that a mistake can be told in one line. Values come out in base units: bytes as
``int``, durations as ``float`` seconds, contexts as ``int`` tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from annotated_types import Ge, Le
from pydantic import BeforeValidator, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError

from daemon.core import units

# Names of models and aliases: what the API accepts too, so that no name can be a path or a flag.
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
_ALIAS_CHARS: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9._:/@+*-]{0,199}")
_MAX_STARS: Final = 4  # more wildcards say nothing more, and matching stays cheap

_MAX_BYTES: Final = 2**60
_TIME_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIME_WORDS: Final = {"sec": "s", "secs": "s", "second": "s", "seconds": "s", "min": "m",
                      "mins": "m", "minute": "m", "minutes": "m", "hour": "h", "hours": "h",
                      "day": "d", "days": "d"}  # fmt: skip
_TIME_PART: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)")
_PERCENT: Final = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*%\s*")
_MAX_SECONDS: Final = 10 * 365 * 86400.0  # ten years: above that a typing error is likelier
_MAX_TOKENS: Final = 2**27

BYTES_ALLOWED: Final = 'a size such as "18GiB", "500MB" or a number of bytes'
SECONDS_ALLOWED: Final = 'a duration such as "15m", "300 s", "1h30m" or a number of seconds'


def refuse(allowed: str, hint: str = "") -> PydanticCustomError:
    """A mistake in one value, as an error that the report can take apart again."""
    return PydanticCustomError("setting", "{allowed}", {"allowed": allowed, "hint": hint})


@dataclass(frozen=True, slots=True)
class Unit:
    """Marks a field for display: ``bytes`` or ``seconds``."""

    name: Literal["bytes", "seconds"]


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a pool, ``percent`` of it (0 to 100, exclusive of 0)."""

    percent: float

    def of(self, total: int) -> int:
        """The bytes that this share of ``total`` bytes is."""
        return int(total * self.percent / 100)


Amount = int | Share
"""Bytes, or a share of what the pool has."""


def parse_bytes(value: object) -> int:
    """Bytes from a number, or from text as :func:`daemon.core.units.parse_bytes` reads it.

    Raises PydanticCustomError for anything else, for negative and for absurd sizes.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refuse(BYTES_ALLOWED)
    if isinstance(value, str):
        negative = value.lstrip().startswith("-")
        try:
            value = units.parse_bytes(value)
        except ValueError:
            hint = "A size cannot be negative." if negative else ""
            raise refuse(BYTES_ALLOWED, hint) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise refuse(BYTES_ALLOWED)
    if value < 0:
        raise refuse(BYTES_ALLOWED, "A size cannot be negative.")
    if value > _MAX_BYTES:
        raise refuse(BYTES_ALLOWED, "That is more than any machine has.")
    return int(value)


def parse_percent(value: object) -> Share | None:
    """``"75%"`` as a :class:`Share`; None where the value is not written as a percentage.

    Raises PydanticCustomError for 0% and for more than 100%.
    """
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    percent = float(match[1])
    if not 0 < percent <= 100:
        raise refuse('a share above "0%" and up to "100%"')
    return Share(percent)


def parse_amount(value: object) -> Amount:
    """Bytes or a share. Raises PydanticCustomError where it is neither."""
    if isinstance(value, Share):
        return value
    share = parse_percent(value)
    if share is not None:
        return share
    try:
        amount = parse_bytes(value)
    except PydanticCustomError as error:
        hint = str((error.context or {}).get("hint", ""))
        raise refuse('a size such as "18GiB", or a share such as "75%"', hint) from None
    if amount == 0:
        raise refuse("a size above 0", "Leave the key out to take the machine's own budget.")
    return amount


def parse_budget(value: object) -> Amount | dict[str, Amount]:
    """One amount for the only pool, or a table of amounts by pool name."""
    if not isinstance(value, Mapping):
        return parse_amount(value)
    budget = {}
    for pool, amount in value.items():
        if not isinstance(pool, str) or not re.fullmatch(POOL_PATTERN, pool):
            raise refuse("a table of pools: unified, ram, gpu0, gpu1, …", f"There is no {pool!r}.")
        budget[pool] = parse_amount(amount)
    if not budget:
        raise refuse("at least one pool in the table", "Leave the key out for the default.")
    return budget


def parse_seconds(value: object) -> float:
    """Seconds from ``"15m"``, ``"300 s"``, ``"1h30m"``, ``"20ms"`` or a number, 0 or more.

    Raises PydanticCustomError for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refuse(SECONDS_ALLOWED)
    if isinstance(value, str):
        value = _seconds_of_text(value)
    if not (isinstance(value, int) or math.isfinite(value)):
        raise refuse(SECONDS_ALLOWED)
    if value < 0:
        raise refuse(SECONDS_ALLOWED, "A duration cannot be negative.")
    if value > _MAX_SECONDS:
        raise refuse(SECONDS_ALLOWED, "That is more than ten years.")
    return float(value)


def _seconds_of_text(text: str) -> float:
    text = text.strip().lower()
    if len(text) > 64:
        raise refuse(SECONDS_ALLOWED)
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        return float(text)
    if text.startswith("-"):
        raise refuse(SECONDS_ALLOWED, "A duration cannot be negative.")
    total, at = 0.0, 0
    for part in _TIME_PART.finditer(text):
        unit = _TIME_WORDS.get(part[2], part[2])
        if part.start() != at or unit not in _TIME_UNITS:
            raise refuse(SECONDS_ALLOWED)
        total, at = total + float(part[1]) * _TIME_UNITS[unit], part.end()
    if at == 0 or text[at:].strip():
        raise refuse(SECONDS_ALLOWED)
    return total


def parse_interval(value: object) -> float:
    """As :func:`parse_seconds`, but at least a millisecond: what repeats must not spin."""
    seconds = parse_seconds(value)
    if seconds < 0.001:
        raise refuse(SECONDS_ALLOWED, "It repeats, so it must be at least 1 ms.")
    return seconds


def parse_keep_alive(value: object) -> float:
    """As :func:`parse_seconds`; besides, ``-1`` or ``"never"`` gives -1.0: never unload."""
    if value == "never" or (not isinstance(value, bool) and value in (-1, "-1")):
        return -1.0
    try:
        return parse_seconds(value)
    except PydanticCustomError:
        raise refuse('a duration such as "15m", 0 (at once) or -1 (never)') from None


def parse_tokens(value: object) -> int:
    """Tokens of context from ``131072``, ``"128k"`` or ``"1m"`` (k = 1024). Above 0."""
    allowed = 'a number of tokens such as 65536 or "64k"'
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,9})\s*([kKmM]?)\s*", value)
        if match is None:
            raise refuse(allowed)
        value = int(match[1]) * {"": 1, "k": 2**10, "m": 2**20}[match[2].lower()]
    if isinstance(value, bool) or not isinstance(value, int):
        raise refuse(allowed)
    if value <= 0:
        raise refuse(allowed, "Leave the key out for the largest context that fits.")
    if value > _MAX_TOKENS:
        raise refuse(allowed, "No model has such a context.")
    return value


def parse_switch(value: object) -> object:
    """``on``, ``off``, ``true``, ``false`` as a bool; everything else unchanged."""
    words = {"on": True, "off": False, "true": True, "false": False, "yes": True, "no": False}
    return words.get(value.strip().lower(), value) if isinstance(value, str) else value


def check_alias(value: str) -> str:
    """An alias: a model name, or a pattern with ``*``. Raises PydanticCustomError."""
    if not _ALIAS_CHARS.fullmatch(value):
        raise refuse(
            "letters, digits and . _ : / @ + -, with * as the only wildcard",
            'Write a pattern as in "claude-*".',
        )
    if value.count("*") > _MAX_STARS or "**" in value:
        raise refuse(f"at most {_MAX_STARS} single * in a pattern")
    if not value.strip("*"):
        raise refuse("a pattern with some letters in it", "For everything else: default_model.")
    return value


def check_name(value: str) -> str:
    """The name of a model. Raises PydanticCustomError."""
    if not NAME_PATTERN.fullmatch(value):
        raise refuse("a name of letters, digits and . _ : / @ + -, beginning with one of the first")
    return value


POOL_PATTERN: Final = r"unified|ram|gpu\d{1,2}"
_REPO = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HF = re.compile(rf"(?:hf:)?({_REPO}(?::[A-Za-z0-9._-]{{1,64}})?)")
_HUB_FILE = re.compile(rf"hf:{_REPO}/[^/\\:-][^\\:]*")
_HUB_FILE_FORM: Final = '"hf:OWNER/REPO/FILE"'
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]{1,4096}")


def check_hf(value: str) -> str:
    """``owner/repo`` or ``owner/repo:QUANT``; a leading ``hf:`` is dropped."""
    match = _HF.fullmatch(value)
    if match is None or ".." in value:
        raise refuse('"owner/repo" or "owner/repo:QUANT"')
    return match[1]


def check_text(value: str) -> str:
    """One line of text without control characters. Raises PydanticCustomError."""
    if not _PRINTABLE.fullmatch(value):
        raise refuse("one line of text without control characters")
    return value


def check_repo_file(value: str) -> str:
    """A file inside a repository: relative, without ``..``. Raises PydanticCustomError."""
    check_text(value)
    if value.startswith(("/", "~", "-")) or ".." in value.split("/") or "\\" in value:
        raise refuse("the name of a file inside the repository", 'For a local file use "path".')
    return value


def check_companion(value: str) -> str:
    """A file beside the weights: a path, its name there, or ``hf:OWNER/REPO/FILE``.

    Raises PydanticCustomError.
    """
    return _with_hub_file(value, f"a path, {_HUB_FILE_FORM}, or a file beside the weights")


def check_template(value: str) -> str:
    """``embedded``, a path, or ``hf:OWNER/REPO/FILE``. Raises PydanticCustomError."""
    return _with_hub_file(value, f'"embedded", a path, or {_HUB_FILE_FORM}')


def _with_hub_file(value: str, allowed: str) -> str:
    check_text(value)
    if "://" in value:
        raise refuse(allowed, "Addresses are not fetched.")
    if value.startswith("hf:"):
        match = _HUB_FILE.fullmatch(value)
        if match is None or ".." in value.split("/"):
            raise refuse(allowed, "It names no file of a repository.")
    return value


def matching(pattern: str, allowed: str, hint: str = "") -> Any:
    """Text that ``pattern`` matches in full; ``allowed`` says in words what that is."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise refuse(allowed, hint)
        return value

    return Annotated[str, _checked(check), WithJsonSchema({"type": "string", "pattern": pattern})]


def _checked(check: Any) -> BeforeValidator:
    """``check`` for strings; other types go on to pydantic's own type error."""
    return BeforeValidator(lambda value: check(value) if isinstance(value, str) else value)


def _schema(kind: str | list[str], **more: object) -> WithJsonSchema:
    return WithJsonSchema({"type": kind, **more})


Bytes = Annotated[
    int,
    BeforeValidator(parse_bytes),
    Unit("bytes"),
    _schema(["integer", "string"], examples=["18GiB", "500MB"]),
]
Budget = Annotated[
    Any,
    BeforeValidator(parse_budget),
    Unit("bytes"),
    _schema(["integer", "string", "object"], examples=["18GiB", "75%", {"gpu0": "22GiB"}]),
]
Seconds = Annotated[
    float,
    BeforeValidator(parse_seconds),
    Unit("seconds"),
    _schema(["number", "string"], minimum=0, examples=["15m", "300 s"]),
]
Interval = Annotated[
    float,
    BeforeValidator(parse_interval),
    Unit("seconds"),
    _schema(["number", "string"], minimum=0.001, examples=[0.5, "1h"]),
]
KeepAlive = Annotated[
    float,
    BeforeValidator(parse_keep_alive),
    Unit("seconds"),
    _schema(["number", "string"], minimum=-1, examples=["15m", 0, -1]),
]
Tokens = Annotated[
    int,
    BeforeValidator(parse_tokens),
    _schema(["integer", "string"], minimum=1, examples=[65536, "64k"]),
]
Flag = Annotated[bool, Strict()]
Switch = Annotated[bool, Strict(), BeforeValidator(parse_switch)]
Whole = Annotated[int, Strict()]  # for a field that states its own limits: limits do not add up
Count = Annotated[int, Strict(), Ge(0), Le(10**9)]
Port = Annotated[int, Strict(), Ge(1), Le(65535)]
Alias = Annotated[str, _checked(check_alias)]
Name = Annotated[str, _checked(check_name)]
Line = Annotated[str, _checked(check_text)]
HfRef = Annotated[str, _checked(check_hf)]
RepoFile = Annotated[str, _checked(check_repo_file)]
Companion = Annotated[str, _checked(check_companion)]
Template = Annotated[str, _checked(check_template)]
Dialect = Literal["chat", "messages", "responses", "ollama"]
Kind = Literal["chat", "completion", "embedding", "rerank", "audio", "image", "other"]
Fit = Literal["shrink", "refuse", "ask"]

if TYPE_CHECKING:
    Pool = str
    EnvName = str
    Host = str
    Origin = str
    Url = str
    Ready = str
else:  # made by a function, which type checkers do not follow
    Pool = matching(POOL_PATTERN, "unified, ram, or gpu0, gpu1, …")
    EnvName = matching(r"[A-Za-z_][A-Za-z0-9_]{0,255}", "the name of an environment variable")
    Host = matching(r"[A-Za-z0-9_.:\[\]%-]{1,255}", "an address or a host name, without a port")
    Origin = matching(
        r"[a-z][a-z0-9+.-]{0,31}://[^\s/?#@*,]{1,255}",
        'an exact origin such as "http://localhost:3000"',
        "No path, no wildcard.",
    )
    Url = matching(
        r"https?://[^\s/?#@]{1,255}(?:/[^\s?#@]{0,1024})?", 'a URL such as "http://nas:11434"'
    )
    Ready = matching(r"request|/[^\s?#]{0,1024}", 'a path such as "/health", or "request"')
