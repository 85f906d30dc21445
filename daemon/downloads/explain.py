"""Errors of the hub in words: what went wrong, and what to do next.

Exceptions are told apart by the names of their classes, so that this needs neither the hub's client
nor one certain HTTP library of the two that its versions use.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from daemon.core.problems import Code, Problem
from daemon.core.units import format_bytes

HOW_TO_SIGN_IN = (
    "set HF_TOKEN to a token of yours (made at https://huggingface.co/settings/tokens), "
    "or run: hf auth login"
)
_HUB_TROUBLE = (408, 500, 502, 503, 504)
_CROWDED_RETRY = 60.0  # seconds, where a 429 says nothing of them
_RESET = re.compile(r";\s*t=(\d{1,6})\b")
"""Seconds until the hub's own limit is over (draft-ietf-httpapi-ratelimit-headers)."""
_NO_CONNECTION = {"TransportError", "OfflineModeIsEnabled", "ConnectionError", "TimeoutError"}


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the words depend on beside the error. ``endpoint`` is the hub's address."""

    repo: str
    revision: str = "main"
    endpoint: str = "https://huggingface.co"
    has_token: bool = False


def is_connection(error: BaseException) -> bool:
    """Whether the network is at fault: the same may work in a minute."""
    return any(
        _names(cause) & _NO_CONNECTION or _status(cause) in _HUB_TROUBLE for cause in _chain(error)
    )


def explain(error: BaseException, about: Circumstances) -> Problem:
    """The problem that an exception of the hub's client or of the disk is for people."""
    names = _names(error)
    status = _status(error)
    if "GatedRepoError" in names:
        return _gated(about)
    if "RepositoryNotFoundError" in names:
        return _failed(
            f"There is no repository {about.repo} on the hub, or it is private.",
            "Check its name." if about.has_token else f"If it is private, {HOW_TO_SIGN_IN}",
            about,
        )
    if "RevisionNotFoundError" in names:
        return _failed(
            f"{about.repo} has no revision {about.revision!r}.",
            "Name a branch, a tag or a commit that it has; most have main.",
            about,
        )
    if "EntryNotFoundError" in names and "LocalEntryNotFoundError" not in names:
        return _failed(f"A file of {about.repo} is not on the hub any more.", "Pull again.", about)
    if status in (401, 403):
        return _refused(status, about)
    if status == 429:
        wait = _asked_wait(error)
        what = f"The hub gets too many requests from here, and asks to wait {wait:.0f} s."
        sign_in = "" if about.has_token else f" With a token it allows more: {HOW_TO_SIGN_IN}"
        return _failed(what, f"Pull again then.{sign_in}", about, wait)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _failed("The disk is full.", "Make room, then pull again: it goes on.", about)
    if isinstance(error, PermissionError):
        return _failed(f"The folder of downloads may not be written: {error}.", "", about)
    if is_connection(error):
        return offline(about, because=first_line(error))
    return _failed(f"The download failed: {type(error).__name__}: {first_line(error)}", "", about)


def offline(about: Circumstances, *, because: str = "") -> Problem:
    """The hub is out of reach, and not all files are here."""
    why = f" ({because})" if because else ""
    return Problem(
        Code.NOT_PULLED,
        f"{about.repo} is not on this machine, and {about.endpoint} cannot be reached{why}.",
        "Connect to the network, then pull again; what has been fetched is kept.",
        facts={"repo": about.repo, "endpoint": about.endpoint},
    )


def no_space(repo: str, needed: int, free: int, reserve: int, folder: str) -> Problem:
    """There is not enough room on the disk, in bytes."""
    return Problem(
        Code.PULL_FAILED,
        f"{repo} needs {format_bytes(needed)} more on the disk, {format_bytes(free)} are free in "
        f"{folder} and {format_bytes(reserve)} must stay free.",
        "Remove something, choose a smaller quantisation, or move the cache (HF_HUB_CACHE).",
        facts={"needed": needed, "free": free, "reserve": reserve},
    )


def _gated(about: Circumstances) -> Problem:
    page = f"{about.endpoint}/{about.repo}"
    step = (
        f"Accept its terms at {page} with the account of your token"
        if about.has_token
        else f"Accept its terms at {page}, then {HOW_TO_SIGN_IN}"
    )
    return _failed(f"{about.repo} is gated: its authors ask who downloads it.", step, about)


def _refused(status: int | None, about: Circumstances) -> Problem:
    if about.has_token:
        return _failed(
            f"The hub refused the token for {about.repo} ({status}).",
            f"It may have expired or lack the right to read this: {HOW_TO_SIGN_IN}",
            about,
        )
    return _failed(
        f"The hub wants to know who asks for {about.repo} ({status}).",
        f"To do so, {HOW_TO_SIGN_IN}",
        about,
    )


def _failed(message: str, hint: str, about: Circumstances, after: float | None = None) -> Problem:
    return Problem(Code.PULL_FAILED, message, hint, after, {"repo": about.repo})


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _asked_wait(error: BaseException) -> float:
    """Seconds that a 429 asks for: Retry-After (RFC 9110, 10.2.3), or the hub's own header."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    said = str(headers.get("retry-after", "")).strip()
    if said.isascii() and said.isdecimal() and len(said) < 7:
        return float(said)
    reset = _RESET.search(str(headers.get("ratelimit", "")))
    return float(reset[1]) if reset else _CROWDED_RETRY


def first_line(error: BaseException) -> str:
    """What an error says, without what its library goes on to advise."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
