"""Keys: what one is, how it is made, and whether what a client has sent is one. Pure, but for the
random number of a new one.

A key is 256 random bits, so its hash needs no salt and no slowness: there is nothing to guess, and
a slow hash would only let a flood of wrong keys cost us time. Kept is its SHA-256 alone.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from daemon.access.principals import ANYONE, CONTROL, LOCAL, OWNER, USE, Principal
from daemon.core.problems import Code, Problem, ProblemError
from daemon.views import KeyView

PREFIX: Final = "mp-"
_ALPHABET: Final = string.ascii_letters + string.digits  # one word for whoever clicks on it
_LENGTH: Final = 43  # of 62 letters: 256 bits
_SHAPE: Final = re.compile(rb"mp-[0-9A-Za-z]{43}")
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_NAME: Final = re.compile(NAME, re.ASCII)
MODELS: Final = r"^[A-Za-z0-9*][A-Za-z0-9._:/@+*-]{0,199}$"
"""Names of models, and patterns of them."""
_MODELS: Final = re.compile(MODELS, re.ASCII)
RESERVED: Final = frozenset({LOCAL.name, ANYONE.name, OWNER.name, "operator", "unknown"})
SCOPES: Final = (USE, CONTROL)
MOST_KEYS: Final = 256
MOST_MODELS: Final = 64
MOST_REQUESTS: Final = 1_000_000
PRIORITIES: Final = (-100, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key, without the key itself. Times are Unix seconds; limits of 0 are none; ``used`` is
    coarse (a minute)."""

    name: str
    digest: bytes
    scopes: frozenset[str]
    created: float
    expires: float | None = None
    models: tuple[str, ...] = ()
    priority: int = 0
    at_once: int = 0
    per_minute: int = 0
    default_model: str = ""
    used: float | None = None

    def live(self, now: float) -> bool:
        """Is it still good?"""
        return self.expires is None or now < self.expires

    @property
    def principal(self) -> Principal:
        """Who sends it."""
        return Principal(
            self.name,
            self.scopes,
            self.priority,
            keyed=True,
            models=self.models,
            default_model=self.default_model,
            at_once=self.at_once,
            per_minute=self.per_minute,
            until=math.inf if self.expires is None else self.expires,
        )

    def view(self, now: float) -> KeyView:
        """For people and programs."""
        return KeyView(
            name=self.name,
            scopes=sorted(self.scopes),
            created=self.created,
            expires=self.expires,
            expired=not self.live(now),
            models=list(self.models),
            priority=self.priority,
            at_once=self.at_once,
            per_minute=self.per_minute,
            default_model=self.default_model,
            used=self.used,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A key that is to be made. ``scope``: ``control`` is with ``use``; ``lasts``: seconds, None
    for ever."""

    name: str
    scope: str = USE
    lasts: float | None = None
    models: tuple[str, ...] = ()
    priority: int = 0
    at_once: int = 0
    per_minute: int = 0
    default_model: str = ""


def make(wanted: Wanted, now: float) -> tuple[Key, str]:
    """A new key, and the text that is shown once and kept nowhere. Raises ProblemError."""
    _check(wanted)
    text = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
    key = Key(
        name=wanted.name,
        digest=digest(text.encode("ascii")),
        scopes=frozenset(SCOPES if wanted.scope == CONTROL else {USE}),
        created=now,
        expires=None if wanted.lasts is None else now + wanted.lasts,
        models=wanted.models,
        priority=wanted.priority,
        at_once=wanted.at_once,
        per_minute=wanted.per_minute,
        default_model=wanted.default_model,
    )
    return key, text


def digest(text: bytes) -> bytes:
    """What is kept of a key: 32 bytes."""
    return hashlib.sha256(text).digest()


def is_name(text: str) -> bool:
    """May a key be called so? Names go into heads of requests, and into logs."""
    return _NAME.fullmatch(text) is not None and text not in RESERVED


def _check(wanted: Wanted) -> None:
    """Raises ProblemError with the first field that will not do."""
    if not _NAME.fullmatch(wanted.name):
        allowed = "letters, digits and ._- (64 at most, the first a letter or a digit)"
        raise _bad("name", wanted.name, allowed)
    if wanted.name in RESERVED:
        raise _bad("name", wanted.name, f"any but {', '.join(sorted(RESERVED))}")
    if wanted.scope not in SCOPES:
        raise _bad("scope", wanted.scope, " or ".join(SCOPES))
    if wanted.lasts is not None and not 0 < wanted.lasts < math.inf:
        raise _bad("expires", wanted.lasts, "a time above 0, such as 30d")
    if len(wanted.models) > MOST_MODELS:
        raise _bad("models", f"{len(wanted.models)} of them", f"{MOST_MODELS} at most")
    for model in (*wanted.models, *filter(None, (wanted.default_model,))):
        if not _MODELS.fullmatch(model):
            raise _bad("models", model, "names of models, and patterns such as qwen*")
    if "*" in wanted.default_model:
        raise _bad("default_model", wanted.default_model, "the name of a model")
    low, high = PRIORITIES
    if not low <= wanted.priority <= high:
        raise _bad("priority", wanted.priority, f"{low} to {high}")
    for field, value in (("at_once", wanted.at_once), ("per_minute", wanted.per_minute)):
        if not 0 <= value <= MOST_REQUESTS:
            raise _bad(field, value, f"0 (no limit) to {MOST_REQUESTS}")


def _bad(field: str, found: object, allowed: str) -> ProblemError:
    shown = str(found)[:80]
    return ProblemError(
        Problem(Code.INVALID_REQUEST, f"{field} of a key: found {shown!r}; allowed: {allowed}.")
    )


class Ring:
    """The keys that there are, as one value that never changes."""

    __slots__ = ("_known", "keys")

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)
        self._known = tuple((key.digest, key, key.principal) for key in self.keys)

    def find(self, given: bytes, now: float) -> Principal | None:
        """Who sends ``given``; None: it is no key of ours, or one that has ended.

        All are compared, each in constant time, whichever it is.
        """
        if not self._known or _SHAPE.fullmatch(given) is None:
            return None
        sent, found = digest(given), None
        for known, key, principal in self._known:
            if hmac.compare_digest(known, sent) and key.live(now):
                found = principal
        return found

    def live(self, now: float) -> list[Key]:
        """Those that open something at ``now``."""
        return [key for key in self.keys if key.live(now)]


NO_KEYS: Final = Ring()


def sent_in(first: Mapping[bytes, bytes]) -> list[bytes]:
    """What a client sent where keys are sent: ``Authorization: Bearer``, Anthropic's ``x-api-key``,
    Azure's ``api-key``. Never in a query, which ends in logs."""
    found = [first[name] for name in (b"x-api-key", b"api-key") if name in first]
    scheme, _, rest = first.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        found.append(rest.strip())
    return found
