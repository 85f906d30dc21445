"""llama.cpp's own ``llama-server``, as found on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from daemon.engines.adapter import LlamaAdapter
from daemon.engines.base import Installed
from daemon.engines.binaries import (
    INSTALL,
    Facts,
    Inspector,
    look_up,
    missing,
    named_path,
    runnable,
)
from daemon.engines.environment import Platform

_VERSION: Final = re.compile(r"^version:?\s+(\S+(?: \([0-9a-f]+\))?)", re.MULTILINE)
_NAME: Final = r"-{1,2}[A-Za-z][\w.-]*"
# At the left edge: names with commas between, each perhaps with the word for its value.
_ENTRY: Final = re.compile(rf"\s{{0,3}}{_NAME}(?: [^\s,]+)?(?:,\s+{_NAME}(?: [^\s,]+)?)*")
_NAMES: Final = re.compile(rf"(?:^|,)\s*({_NAME})")
_DEVICE: Final = re.compile(r"^\s+([A-Za-z]+)\d*:", re.MULTILINE)
_ACCELERATORS: Final[Mapping[str, str]] = {"mtl": "metal", "metal": "metal"}
# Of --host: "… or UNIX socket paths ending in .sock", which older builds word otherwise.
_SOCKETS: Final = re.compile(r"\bunix\s+socket", re.IGNORECASE)
_NOT_ACCELERATORS: Final = frozenset({"cpu", "blas", "rpc"})


def parse_help(text: str) -> frozenset[str]:
    """The flags that ``--help`` lists: each entry begins its line with its names."""
    heads = (_ENTRY.match(line) for line in text.splitlines())
    return frozenset(name for head in heads if head for name in _NAMES.findall(head[0]))


def parse_version(text: str) -> str:
    """``8123 (0c1e57098)`` of ``--version``; its first line where that has another form."""
    found = _VERSION.search(text)
    if found:
        return found[1]
    return next((line.strip()[:80] for line in text.splitlines() if line.strip()), "")


def parse_devices(text: str) -> tuple[str, ...]:
    """Kinds of accelerators that ``--list-devices`` names: ``cuda``, ``metal``, ``vulkan``, …"""
    kinds = (kind.lower() for kind in _DEVICE.findall(text))
    usable = (_ACCELERATORS.get(kind, kind) for kind in kinds if kind not in _NOT_ACCELERATORS)
    return tuple(dict.fromkeys(usable))


def parse_sockets(text: str) -> bool:
    """Whether ``--help`` says that it can listen on a unix socket."""
    return _SOCKETS.search(text) is not None


def gpu_warning(
    engine: str,
    accelerators: Sequence[str],
    platform: Platform,
    mends: str = INSTALL["llama-server"],
) -> str:
    """One line where the machine has a GPU that this engine cannot use, with what mends it."""
    if accelerators or not (platform.gpus or platform.apple_silicon):
        return ""
    gpu = {"nvidia": "NVIDIA", "amd": "AMD"}.get(next(iter(platform.gpus), ""), "Apple")
    return (
        f"{engine} cannot use the {gpu} GPU of this machine: models run on the CPU. "
        f"Mend it: {mends}"
    )


class LlamaServer(LlamaAdapter):
    """Finds ``llama-server``, and passes it only flags that its ``--help`` lists."""

    name = "llama-server"

    def find(self, settings: Mapping[str, object], environ: Mapping[str, str]) -> Installed:
        """Locate it: ``path`` of the settings, else the PATH.

        Raises ProblemError (ENGINE_MISSING): not there, or it does not answer ``--help``.
        """
        path = named_path(self.name, settings) or look_up("llama-server", environ)
        if path is None:
            raise missing(self.name, "it is not on the PATH")
        program = runnable(self.name, path)
        facts = self._inspector.facts(program, lambda: _ask(program, environ, self._inspector))
        if facts is None:
            raise missing(self.name, f"{program} does not run (it does not answer --help)")
        return Installed(
            engine=self.name,
            program=(str(program),),
            version=facts.version,
            flags=frozenset(facts.flags),
            accelerators=facts.accelerators,
            warning=gpu_warning(self.name, facts.accelerators, self._platform),
            sockets=facts.sockets,
        )


def _ask(program: Path, environ: Mapping[str, str], inspector: Inspector) -> Facts | None:
    output = inspector.output
    text = output((str(program), "--help"), environ)
    flags = parse_help(text or "")
    if not {"-m", "--port"} <= flags:
        return None
    version = output((str(program), "--version"), environ) or ""
    devices = ""
    if "--list-devices" in flags:
        devices = output((str(program), "--list-devices"), environ) or ""
    return Facts(
        parse_version(version),
        tuple(sorted(flags)),
        parse_devices(devices),
        parse_sockets(text or ""),
    )
