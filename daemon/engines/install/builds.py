"""Which archives of a llama.cpp release suit a machine, best first. Pure.

Names as its releases have them: ``llama-b11379-bin-ubuntu-cuda-12.8-x64.tar.gz`` with CUDA's own
libraries beside it in ``cudart-…``, ``…-ubuntu-vulkan-x64``, ``…-ubuntu-rocm-7.2-x64``,
``…-macos-arm64`` (Metal inside), ``…-ubuntu-x64`` (processor alone).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from daemon.engines.install.probes import Graphics, Machine

_NAME: Final = re.compile(
    r"(?P<runtime>cudart-)?llama-(?P<tag>[\w.]+)-bin-(?P<system>ubuntu|macos)"
    r"(?:-(?P<build>cuda|vulkan|rocm)(?:-(?P<version>\d+\.\d+))?)?-(?P<arch>x64|arm64)"
    r"\.(?P<form>tar\.gz|zip)"
)
_TURING: Final = (7, 5)  # CUDA 13 runs on nothing older
_MAXWELL: Final = (5, 0)  # nor do the builds with CUDA 12 on anything older than this


@dataclass(frozen=True, slots=True)
class Choice:
    """One build: ``build`` is what it must be able to use ("cpu": nothing), ``files`` its archives.
    ``why`` for people."""

    build: str
    files: tuple[str, ...]
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Archive:
    name: str
    build: str
    version: tuple[int, int]
    runtime: bool


def choices(names: Iterable[str], machine: Machine) -> tuple[Choice, ...]:
    """The builds of a release for this machine, best first; none where it has none for it."""
    system = {"Linux": "ubuntu", "Darwin": "macos"}.get(machine.system)
    arch = "x64" if machine.x64 else "arm64" if machine.arm64 else None
    if system is None or arch is None or (system == "ubuntu" and machine.glibc is None):
        return ()
    there = [one for name in names if (one := _read(name, system, arch)) is not None]
    main = [one for one in there if not one.runtime]
    if system == "macos":
        metal = "metal" if arch == "arm64" else "cpu"
        return tuple(Choice(metal, (one.name,)) for one in main if one.build == "cpu")[:1]
    gpu = machine.graphics
    plain = [Choice("cpu", (one.name,)) for one in main if one.build == "cpu"]
    return (*_cuda(main, there, gpu), *_rocm(main, gpu), *_vulkan(main, gpu), *plain)


def better(found: tuple[Choice, ...], build: str) -> tuple[Choice, ...]:
    """Those before the one that is here already."""
    builds = [one.build for one in found]
    return found[: builds.index(build)] if build in builds else ()


def unused(names: Iterable[str], machine: Machine) -> str:
    """Why an NVIDIA card gets no CUDA build; "" where it does, or there is no such card."""
    gpu = machine.graphics
    best = choices(names, machine)
    if not (gpu.nvidia or gpu.cuda or "nvidia" in gpu.signs) or (best and best[0].build == "cuda"):
        return ""
    if gpu.cuda is None:
        return "nvidia-smi does not say which CUDA its driver runs: is the driver whole?"
    return (
        f"The NVIDIA driver runs CUDA {gpu.cuda[0]}.{gpu.cuda[1]} at most, and no build is for it:"
        " a newer driver would be faster than Vulkan."
    )


def _read(name: str, system: str, arch: str) -> _Archive | None:
    found = _NAME.fullmatch(name)
    if found is None or found["system"] != system or found["arch"] != arch:
        return None
    major, _, minor = (found["version"] or "0.0").partition(".")
    build = found["build"] or "cpu"
    return _Archive(name, build, (int(major), int(minor)), found["runtime"] is not None)


def _cuda(main: list[_Archive], every: list[_Archive], gpu: Graphics) -> list[Choice]:
    """The newest that driver and cards run. Libraries of CUDA come along: no toolkit is needed."""
    if gpu.cuda is None:
        return []
    least = gpu.capability
    able = [
        one
        for one in main
        if one.build == "cuda"
        and one.version <= gpu.cuda
        and (least is None or least >= (_TURING if one.version >= (13, 0) else _MAXWELL))
    ]
    able.sort(key=lambda one: one.version, reverse=True)
    runtimes = {one.name.removeprefix("cudart-"): one.name for one in every if one.runtime}
    found = []
    for one in able[:1]:
        beside = (runtimes[one.name],) if one.name in runtimes else ()
        why = f"the driver runs CUDA {gpu.cuda[0]}.{gpu.cuda[1]}"
        found.append(Choice("cuda", (one.name, *beside), why))
    return found


def _rocm(main: list[_Archive], gpu: Graphics) -> list[Choice]:
    """Its libraries do not come along: only with ROCm of the same series on the machine."""
    if not gpu.gfx or gpu.rocm is None:
        return []
    able = [one for one in main if one.build == "rocm" and one.version[0] == gpu.rocm[0]]
    able.sort(key=lambda one: one.version, reverse=True)
    why = f"{gpu.gfx[0]} with ROCm {gpu.rocm[0]}.{gpu.rocm[1]}"
    return [Choice("rocm", (one.name,), why) for one in able[:1]]


def _vulkan(main: list[_Archive], gpu: Graphics) -> list[Choice]:
    """Any GPU with a Vulkan driver: also those whose own build does not suit. Where vulkaninfo is
    not installed the kernel's signs are enough to try: what it can use is asked afterwards."""
    if not gpu.card:
        return []
    why = gpu.vulkan[0] if gpu.vulkan else "a GPU that no other build suits"
    return [Choice("vulkan", (one.name,), why) for one in main if one.build == "vulkan"][:1]
