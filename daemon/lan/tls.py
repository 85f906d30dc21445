"""Encryption off loopback: the user's certificate, or one of our own making."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.config.paths import expanded
from daemon.core.problems import Code, Problem, ProblemError

_OTHERS = 0o007


@dataclass(frozen=True, slots=True)
class Safe:
    """A certificate that can be served. ``expires``: Unix seconds; ``doubt``: what should be mended
    all the same."""

    context: ssl.SSLContext
    cert: str
    fingerprint: str
    expires: float | None
    self_made: bool
    doubt: str = ""


def fingerprint(der: bytes) -> str:
    """SHA-256 as browsers and ``openssl x509 -fingerprint -sha256`` show it."""
    return hashlib.sha256(der).digest().hex(":").upper()


async def self_made(
    folder: Path, names: Sequence[str], *, life: float, renewal: float, now: float, seconds: float
) -> Safe:
    """Ours, made or renewed where need be. Raises ProblemError."""
    words = [str(folder), *names, f"--life={life}", f"--renewal={renewal}", f"--now={now}"]
    told = await _program(words, seconds)
    return await asyncio.to_thread(
        load, str(told["cert"]), str(told["key"]), expires=told["not_after"], made=True
    )


async def given(cert: str, key: str, *, seconds: float) -> Safe:
    """The user's own files. Raises ProblemError."""
    at, by = str(expanded(cert)), str(expanded(key))
    safe = await asyncio.to_thread(load, at, by, expires=None, made=False)
    told = await _program([at], seconds)
    return Safe(
        safe.context, at, safe.fingerprint, float(told["not_after"]), False, await _doubt(by)
    )


async def _doubt(key: str) -> str:
    about = await asyncio.to_thread(Path(key).stat)
    if about.st_mode & _OTHERS:
        return f"Everybody on this machine can read {key}: chmod 600 {key}"
    return ""


def load(cert: str, key: str, *, expires: float | None, made: bool) -> Safe:
    """Both files, which belong together. Blocks. Raises ProblemError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_password)
        pem = Path(cert).read_text("ascii")
        begin = pem.index(ssl.PEM_HEADER)
        end = pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
        der = ssl.PEM_cert_to_DER_cert(pem[begin:end])
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ProblemError(
            Problem(
                Code.CONFIG_INVALID,
                f"The certificate {cert} with the key {key} cannot be used: {reason}.",
                "Look at tls.cert and tls.key; without them modelport makes its own.",
            )
        ) from None
    return Safe(context, cert, fingerprint(der), expires, made)


def _no_password() -> str:
    """Asked for by OpenSSL, which would ask on the terminal otherwise."""
    raise ValueError("it is encrypted with a password, and a daemon cannot be asked for one")


async def _program(words: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run ``daemon.lan.certificate``, ``seconds`` at most. Raises ProblemError."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "daemon.lan.certificate"),
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise _failed(str(error)) from None
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    except TimeoutError:
        raise _failed(f"it took longer than {seconds:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = err.decode("utf-8", "replace").strip().splitlines()
        raise _failed(lines[-1] if lines else f"exit status {process.returncode}")
    told: dict[str, Any] = json.loads(out)
    return told


def _failed(reason: str) -> ProblemError:
    return ProblemError(
        Problem(Code.CONFIG_INVALID, f"The certificate cannot be made or read: {reason}")
    )
