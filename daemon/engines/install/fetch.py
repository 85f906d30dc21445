"""Fetching files of an official release: going on after a break, verified by their checksum."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daemon.core.problems import Code, Problem, ProblemError
from daemon.core.units import MIB
from daemon.engines.install.children import Tell

RELEASES: Final = "https://api.github.com/repos/ggml-org/llama.cpp/releases"
"""Where llama.cpp's releases are listed; ``MODELPORT_LLAMA_RELEASES`` names a mirror."""

SECONDS: Final = 60.0  # without a byte
_PIECE: Final = 256 * 1024
_TRIES: Final = 6  # in a row that bring nothing
_PAUSE: Final = 0.5  # seconds before the first of them; doubled each time
_MAX_LIST: Final = 8 << 20
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of a release. ``sha256`` is empty where the listing has none."""

    name: str
    url: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Release:
    """One release by its tag."""

    tag: str
    assets: dict[str, Asset]


def release(base: str, tag: str | None, seconds: float = SECONDS) -> Release:
    """The release of this tag; None: the newest. Raises ProblemError (PULL_FAILED)."""
    url = f"{base}/tags/{tag}" if tag else f"{base}/latest"
    if not url.startswith(("https://", "http://")):
        what = f"{base} is no address of releases."
        raise ProblemError(Problem(Code.CONFIG_INVALID, what, "Correct MODELPORT_LLAMA_RELEASES."))
    try:
        with _open(url, 0, seconds) as answer:
            told = json.loads(answer.read(_MAX_LIST))
        return _release(told)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(error.code, tag) from None
    except (OSError, http.client.HTTPException) as error:
        what = f"The list of llama.cpp's releases cannot be read: {_words(error)}."
        raise ProblemError(Problem(Code.PULL_FAILED, what, _LATER)) from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        what = f"The list of llama.cpp's releases is not understood: {error}."
        raise ProblemError(Problem(Code.PULL_FAILED, what, _LATER)) from None


_LATER: Final = "Try again later; what was fetched is kept. Or: --from brew, --from compile."


def _refused(status: int, tag: str | None) -> ProblemError:
    if status == 404:
        what = f"llama.cpp has no release {tag}." if tag else "No release is listed."
        hint = "Leave the version out for the newest: ctl engine install llama-server"
    elif status in (403, 429):
        what, hint = (
            "The list of releases is not given out to us just now (too many asked).",
            _LATER,
        )
    else:
        what, hint = f"The list of llama.cpp's releases cannot be read: status {status}.", _LATER
    return ProblemError(Problem(Code.PULL_FAILED, what, hint))


def _release(told: Any) -> Release:
    tag = str(told["tag_name"])
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,63}", tag):
        raise ValueError(f"a tag is {tag!r:.60}")
    assets = {}
    for one in told["assets"]:
        name, url = str(one["name"]), str(one["browser_download_url"])
        if "/" in name or name.startswith("."):
            continue
        if not url.startswith(("https://", "http://")):
            raise ValueError(f"an address is {url!r:.60}")
        digest = _DIGEST.fullmatch(str(one.get("digest") or ""))
        size = int(one["size"])
        if size <= 0:
            raise ValueError(f"{name[:80]} has {size} bytes")
        assets[name] = Asset(name, url, size, digest[1] if digest else "")
    return Release(tag, assets)


def fetch(asset: Asset, folder: Path, tell: Tell, seconds: float = SECONDS) -> Path:
    """The verified file in ``folder``. What came before a break stays there as ``NAME.part`` and
    is gone on from, also the next time.

    Raises ProblemError (PULL_FAILED); OSError where the disk refuses.
    """
    if not asset.sha256:
        what = f"{asset.name} has no checksum in its release, so it cannot be verified."
        raise ProblemError(
            Problem(Code.PULL_FAILED, what, "Install it by hand, or another release.")
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target, part = folder / asset.name, folder / f"{asset.name}.part"
    if target.is_file() and _digest(target) == asset.sha256:
        return target
    for fresh in (False, True):  # what was begun by an earlier release of the name is worth nothing
        began = 0 if fresh else _size(part)
        if fresh:
            part.unlink(missing_ok=True)
        _bring(asset, part, tell, seconds)
        if _digest(part) == asset.sha256:
            part.replace(target)
            return target
        if not began:
            break
    part.unlink(missing_ok=True)
    what = f"{asset.name} is not what its release says: its checksum is another one."
    hint = "It was thrown away. Is there a proxy that changes downloads? Try again later."
    raise ProblemError(Problem(Code.PULL_FAILED, what, hint))


def _bring(asset: Asset, part: Path, tell: Tell, seconds: float) -> None:
    """All bytes into ``part``, in as many turns as it takes while each brings some."""
    tries, pause = 0, _PAUSE
    while True:
        before, why = _size(part), ""
        if before > asset.size:
            part.unlink()
            before = 0
        if before == asset.size:
            return
        try:
            _turn(asset, part, before, tell, seconds)
        except urllib.error.HTTPError as error:
            error.close()
            why = f"status {error.code}"
            if error.code in (401, 403, 404, 410):
                what = f"{asset.name} cannot be fetched: {why}."
                raise ProblemError(Problem(Code.PULL_FAILED, what, _LATER)) from None
        except _BrokeError as error:
            why = str(error)
        if _size(part) > asset.size:
            return  # more than there should be: the checksum will say so
        if _size(part) > before:
            tries, pause = 0, _PAUSE
            continue
        tries += 1
        if tries == _TRIES:
            why = why or "it ends too early"
            what = f"{asset.name} cannot be fetched: {why}."
            raise ProblemError(Problem(Code.PULL_FAILED, what, _LATER))
        tell("fetch", f"{asset.name}: {why or 'no byte came'}, trying again", None)
        time.sleep(pause)
        pause *= 2


def _turn(asset: Asset, part: Path, at: int, tell: Tell, seconds: float) -> None:
    """From byte ``at`` on, as far as the connection holds. Raises HTTPError, _BrokeError for what
    the network does, OSError for what the disk does."""
    try:
        opened = _open(asset.url, at, seconds)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _BrokeError(_words(error)) from None
    with opened as answer:
        if answer.status != 206 or not _begins(answer, at):
            at = 0  # all of it comes
        with part.open("r+b" if at else "wb") as file:
            file.seek(at)
            while piece := _piece(answer):
                file.write(piece)
                at += len(piece)
                if at > asset.size:
                    return
                text = f"{asset.name}, {at / MIB:,.0f} of {asset.size / MIB:,.0f} MiB"
                tell("fetch", text, at / asset.size if asset.size else None)


def _piece(answer: http.client.HTTPResponse) -> bytes:
    """Raises _BrokeError, also for errors of TLS and of a network that is gone, which are plain
    OSErrors as those of a disk are."""
    try:
        return answer.read1(_PIECE)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokeError(_words(error)) from None


class _BrokeError(Exception):
    """The connection, in words for people."""


def _begins(answer: http.client.HTTPResponse, at: int) -> bool:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == at


def _open(url: str, at: int, seconds: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": "modelport", "Accept-Encoding": "identity"}
    if at:
        headers["Range"] = f"bytes={at}-"
    wanted = urllib.request.Request(url, headers=headers)  # noqa: S310 - http(s), by _release
    answer: http.client.HTTPResponse = urllib.request.urlopen(wanted, timeout=seconds)  # noqa: S310
    return answer


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if isinstance(error, http.client.IncompleteRead):
        return "the connection broke"
    return str(getattr(reason, "strerror", None) or reason or error) or type(error).__name__
