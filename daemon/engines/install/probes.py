"""What graphics this machine has, from what its own tools print: which build of a program suits.

Each parser is pure; :func:`look` runs the tools. A tool that is not there, hangs or prints
something else tells nothing, and what the kernel publishes (``Platform``) is then all there is.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.engines.binaries import look_up
from daemon.engines.environment import Platform, child_environment

SECONDS: Final = 20.0  # for one tool; system_profiler takes some
_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Graphics:
    """What is there. ``cuda``: the newest that the NVIDIA driver runs; ``capability``: the least
    of its cards; ``rocm``: the version installed; ``gfx``: AMD's names of its chips."""

    nvidia: tuple[str, ...] = ()
    cuda: tuple[int, int] | None = None
    capability: tuple[int, int] | None = None
    gfx: tuple[str, ...] = ()
    rocm: tuple[int, int] | None = None
    vulkan: tuple[str, ...] = ()  # devices that are no processors
    apple: tuple[str, ...] = ()  # chips whose Metal is supported
    signs: tuple[str, ...] = ()  # "nvidia", "amd": by the kernel alone

    @property
    def card(self) -> bool:
        """There is a GPU that some build of an archive may use."""
        return bool(self.vulkan or self.nvidia or self.cuda or self.gfx or self.signs)


@dataclass(frozen=True, slots=True)
class Machine:
    """All that the choice of a build hangs on."""

    system: str  # "Linux", "Darwin"
    arch: str  # "x86_64", "arm64", "aarch64"
    graphics: Graphics = field(default_factory=Graphics)
    glibc: tuple[int, int] | None = None  # None: another C library, or no Linux

    @property
    def x64(self) -> bool:
        return self.arch.lower() in ("x86_64", "amd64")

    @property
    def arm64(self) -> bool:
        return self.arch.lower() in ("arm64", "aarch64")


def parse_nvidia_smi(text: str) -> tuple[int, int] | None:
    """The newest CUDA that the driver runs, from the head of ``nvidia-smi``."""
    found = re.search(r"CUDA(?: UMD)? Version:\s*(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def parse_nvidia_cards(text: str) -> tuple[tuple[str, ...], tuple[int, int] | None]:
    """Names and the least compute capability, from ``nvidia-smi
    --query-gpu=name,compute_cap --format=csv,noheader``."""
    names, least = [], None
    for line in text.splitlines():
        name, comma, rest = line.rpartition(",")
        found = re.fullmatch(r"\s*(\d+)\.(\d+)\s*", rest)
        if comma and found:
            names.append(name.strip())
            capability = (int(found[1]), int(found[2]))
            least = capability if least is None else min(least, capability)
    return tuple(names), least


def parse_vulkaninfo(text: str) -> tuple[str, ...]:
    """Devices of ``vulkaninfo --summary`` that are no processors (llvmpipe is one)."""
    found = []
    for block in re.split(r"^GPU\d+:", text, flags=re.MULTILINE)[1:]:
        kind = re.search(r"deviceType\s*=\s*PHYSICAL_DEVICE_TYPE_(\w+)", block)
        name = re.search(r"deviceName\s*=\s*(.+)", block)
        if kind and name and kind[1] in ("DISCRETE_GPU", "INTEGRATED_GPU", "VIRTUAL_GPU"):
            found.append(name[1].strip())
    return tuple(found)


def parse_rocminfo(text: str) -> tuple[str, ...]:
    """AMD's names of the GPUs (``gfx1100``) in ``rocminfo``."""
    found = []
    for block in re.split(r"^Agent \d+", text, flags=re.MULTILINE)[1:]:
        if re.search(r"Device Type:\s*GPU", block):
            name = re.search(r"^\s*Name:\s*(gfx\w+)", block, flags=re.MULTILINE)
            if name:
                found.append(name[1])
    return tuple(found)


def parse_system_profiler(text: str) -> tuple[str, ...]:
    """Apple's own chips with Metal, in ``system_profiler SPDisplaysDataType``."""
    found = []
    for block in re.split(r"(?=^\s*Chipset Model:)", text, flags=re.MULTILINE):
        name = re.search(r"Chipset Model:\s*(Apple .+)", block)
        if name and re.search(r"Metal(?: Support| Family)?:\s*(?:Supported|Metal)", block):
            found.append(name[1].strip())
    return tuple(found)


def _pair(text: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", text.strip())
    return (int(found[1]), int(found[2])) if found else None


TOOLS: Final[Mapping[str, tuple[str, ...]]] = {
    "nvidia-smi": ("nvidia-smi",),
    "cards": ("nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"),
    "vulkaninfo": ("vulkaninfo", "--summary"),
    "rocminfo": ("rocminfo",),
    "system_profiler": ("system_profiler", "SPDisplaysDataType"),
}


def graphics(said: Mapping[str, str], rocm: str = "", signs: Sequence[str] = ()) -> Graphics:
    """From what the tools of :data:`TOOLS` printed (those that did), and ROCm's version file."""
    names, capability = parse_nvidia_cards(said.get("cards", ""))
    return Graphics(
        nvidia=names,
        cuda=parse_nvidia_smi(said.get("nvidia-smi", "")),
        capability=capability,
        gfx=parse_rocminfo(said.get("rocminfo", "")),
        rocm=_pair(rocm),
        vulkan=parse_vulkaninfo(said.get("vulkaninfo", "")),
        apple=parse_system_profiler(said.get("system_profiler", "")),
        signs=tuple(signs),
    )


def look(environ: Mapping[str, str], root: Path = Path("/")) -> Machine:
    """This machine. Runs the tools that are there: for a thread, or for ``ctl``."""
    here = Platform.here(root)
    wanted = ("system_profiler",) if here.system == "Darwin" else tuple(TOOLS)[:-1]
    said = {name: _run(TOOLS[name], environ) for name in wanted}
    rocm = ""
    version = root / "opt/rocm/.info/version"
    if version.is_file():
        rocm = version.read_text("utf-8", "replace")[:64]
    library, number = platform.libc_ver()
    glibc = _pair(number) if library == "glibc" else None
    return Machine(here.system, here.machine, graphics(said, rocm, here.gpus), glibc)


def _run(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    program = look_up(argv[0], environ) or _sbin(argv[0])
    if program is None:
        return ""
    return output((str(program), *argv[1:]), environ)


def _sbin(name: str) -> Path | None:
    path = Path("/usr/sbin") / name  # system_profiler's
    return path if path.is_file() else None


def output(argv: Sequence[str], environ: Mapping[str, str], seconds: float = SECONDS) -> str:
    """What a program prints on stdout; "" where it cannot be run, fails or takes too long."""
    try:
        done = subprocess.run(
            list(argv), stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd="/",
            timeout=seconds, env=child_environment(environ),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout[:_MAX].decode(errors="replace") if done.returncode == 0 else ""


Look = Callable[[Mapping[str, str]], Machine]
