"""Versions of engines: what a person may write, and which of two is older. Pure."""

from __future__ import annotations

import re
from typing import Final

from daemon.core.problems import Code, Problem, ProblemError

ENGINES: Final = ("llama-server", "xllamacpp", "mlx-lm", "vllm-mlx", "vllm")
"""Those that we can install."""

FAMILY: Final = {"llama-server": "llama.cpp", "xllamacpp": "llama.cpp"}
"""What `min_engine` calls them, where that is not their own name."""

# Also the name of a folder: no separators, no leading dot or dash.
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,63}")
_NUMBERS: Final = re.compile(r"\d+")
_RELEASED: Final = re.compile(r"v?(?:\d+!)?(\d+(?:\.\d+)*)")
_XLLAMACPP: Final = re.compile(r"20\d\d\.\d+\.(\d+)(?:\.\d+)?")
# Of several of one version.
_BUILD: Final = re.compile(r"(b\d+|\d+(?:\.\d+)*)-(?:cpu|metal|vulkan|rocm|cuda\d*)")
_LLAMA: Final = re.compile(r"b?(\d+)\b(?!\.)")


def parse(text: str) -> tuple[str, str | None]:
    """``NAME[@VERSION]`` as typed. Raises ProblemError (CONFIG_INVALID)."""
    name, at, version = text.partition("@")
    if name not in ENGINES:
        hint = f"There are: {', '.join(ENGINES)}."
        raise ProblemError(
            Problem(Code.CONFIG_INVALID, f"modelport cannot install {name[:80]!r}.", hint)
        )
    if at and not _VERSION.fullmatch(version):
        what = f"{version[:80]!r} is no version."
        hint = f"Write one as it is published, such as {name}@{_EXAMPLES[name]}."
        raise ProblemError(Problem(Code.CONFIG_INVALID, what, hint))
    return name, version or None


_EXAMPLES: Final = {
    "llama-server": "b9000",
    "xllamacpp": "2026.10.11549",
    "mlx-lm": "0.32.2",
    "vllm-mlx": "0.6.0",
    "vllm": "0.11.0",
}


def build_of(engine: str, version: str) -> int | None:
    """The build number of llama.cpp inside (``b8123``, ``8123 (0c1e570)``, ``2026.10.11549``);
    None where the version does not tell."""
    if engine == "xllamacpp":
        found = _XLLAMACPP.fullmatch(version)
    elif engine == "llama-server":
        found = _LLAMA.match(version)
    else:
        return None
    number = int(found[1]) if found else 0
    return number or None  # 0: compiled without one


def numbers(version: str) -> tuple[int, ...] | None:
    """The leading dotted numbers, by which releases are compared; None where there are none."""
    found = _RELEASED.match(version)
    return tuple(map(int, found[1].split("."))) if found else None


def older(engine: str, version: str, wanted: str) -> bool:
    """Whether ``version`` is certainly older than ``wanted`` (a value of ``min_engine``). What
    cannot be compared is not older: nobody is refused for a version that says nothing."""
    if FAMILY.get(engine) == "llama.cpp":
        here, least = build_of(engine, version), _NUMBERS.search(wanted)
        return here is not None and least is not None and here < int(least[0])
    mine, theirs = numbers(version), numbers(wanted)
    if mine is None or theirs is None:
        return False
    width = max(len(mine), len(theirs))
    return _padded(mine, width) < _padded(theirs, width)


def _padded(version: tuple[int, ...], width: int) -> tuple[int, ...]:
    return version + (0,) * (width - len(version))


def bring(engine: str, version: str) -> str:
    """The command that brings a version of the shelf again, by its name there."""
    if version.startswith("brew-"):
        return f"ctl engine install {engine} --from brew"
    if "-at-" in version:
        return f"ctl engine use {engine} PATH"
    build = _BUILD.fullmatch(version)
    return f"ctl engine install {engine}@{build[1] if build else version}"


def order(engine: str, version: str) -> tuple[int, ...]:
    """To sort by, the oldest first."""
    build = build_of(engine, version)
    return (build,) if build is not None else numbers(version) or ()
