"""How a flag becomes settings of ``xllamacpp.CommonParams``: readers of values, kinds of flags."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ADVICE: Final = (
    'the embedded engine cannot do this; run the model with llama-server (engine = "llama-server")'
)


class UsageError(Exception):
    """A command line that cannot be honoured, told in one line."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a flag writes to: the parameters, and the module for its enums."""

    module: Any
    params: Any

    def put(self, path: str, value: object) -> None:
        """Set ``params.a.b`` for the path ``a.b``."""
        *parents, last = path.split(".")
        target = self.params
        for name in parents:
            target = getattr(target, name, None)
        if not hasattr(target, last):
            raise UsageError(f"this xllamacpp has no setting {path}: {ADVICE}")
        setattr(target, last, value)

    def enum(self, name: str, member: str) -> Any:
        found = getattr(getattr(self.module, name, None), member, None)
        if found is None:
            raise UsageError(f"this xllamacpp has no {member}: {ADVICE}")
        return found


@dataclass(frozen=True, slots=True)
class Flag:
    """One setting under all of its names. A flag without ``takes`` is a switch."""

    names: tuple[str, ...]
    apply: Callable[[Job, str], None]
    takes: bool = True


# ---------------------------------------------------------------- values


def whole(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"{value!r} is not a whole number") from None


def real(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{value!r} is not a number")
    return number


def file_text(value: str) -> str:
    try:
        return Path(value).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"failed to open {value!r}: {error}") from None


def folder(value: str) -> str:
    """A folder that exists, with the separator at its end that llama.cpp wants."""
    if not Path(value).is_dir():
        raise UsageError(f"{value!r} is not a folder")
    return value.rstrip("/") + "/"


def listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def pick(value: str, allowed: Mapping[str, str]) -> str:
    if value not in allowed:
        raise UsageError(f"{value!r} is not one of {', '.join(allowed)}")
    return allowed[value]


def threads(value: str) -> int:
    count = whole(value)
    return count if count > 0 else os.cpu_count() or 1


def layers(value: str) -> int:
    return {"auto": -1, "all": -2}.get(value) or whole(value)


def seed(value: str) -> int:
    return whole(value) & 0xFFFFFFFF  # -1 is llama.cpp's "random", kept in 32 bits


# ---------------------------------------------------------------- kinds of flags


def value(path: str, *names: str, read: Callable[[str], object] = whole) -> Flag:
    return Flag(names, lambda job, raw: job.put(path, read(raw)))


def text(path: str, *names: str) -> Flag:
    return value(path, *names, read=str)


def switch(path: str, on: bool, *names: str) -> Flag:
    return Flag(names, lambda job, _: job.put(path, on), takes=False)


def either(path: str, on: tuple[str, ...], off: tuple[str, ...]) -> tuple[Flag, Flag]:
    """A switch and its opposite."""
    return switch(path, True, *on), switch(path, False, *off)


def choice(path: str, enum: str, prefix: str, allowed: Mapping[str, str], *names: str) -> Flag:
    def apply(job: Job, raw: str) -> None:
        job.put(path, job.enum(enum, prefix + pick(raw, allowed)))

    return Flag(names, apply)


def sampling(name: str, *names: str, bit: str = "", read: Callable[[str], object] = real) -> Flag:
    """A sampling default. ``bit`` tells llama.cpp that the user chose it, so that what the model
    file recommends does not replace it."""

    def apply(job: Job, raw: str) -> None:
        job.put(f"sampling.{name}", read(raw))
        if bit:
            mark = job.enum("common_params_sampling_config", f"COMMON_PARAMS_SAMPLING_CONFIG_{bit}")
            chosen = int(job.params.sampling.user_sampling_config) | int(mark)
            job.put("sampling.user_sampling_config", chosen)

    return Flag(names, apply)


def own(*values: str) -> dict[str, str]:
    """Values whose enum member bears their own name: ``q8_0`` -> ``Q8_0``."""
    return {name: name.upper().replace("-", "_") for name in values}
