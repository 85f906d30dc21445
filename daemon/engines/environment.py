"""The environment that an engine's process gets, and the little that engines must know of the
machine.

A child inherits by allow-list: our own process may carry tokens of the user's (``HF_TOKEN``,
``ANTHROPIC_API_KEY``) and settings that change an engine behind our back (``LLAMA_ARG_CTX_SIZE``).
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# A process needs these to run at all, or to say things in the user's language.
NAMES: Final = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ",
        "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR",
        "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH",
        "HF_HOME", "HF_HUB_CACHE",
    }
)  # fmt: skip

# Choosing and tuning processors: what a user sets for the whole machine must reach the engine.
PREFIXES: Final = (
    "LC_", "CUDA_", "NVIDIA_", "NCCL_", "HIP_", "HSA_", "ROCR_", "ROCM_", "VK_", "ZE_", "SYCL_",
    "ONEAPI_", "GGML_", "METAL_", "MTL_", "MLX_", "VLLM_", "OMP_", "GOMP_", "KMP_", "MKL_",
)  # fmt: skip

# Weights and templates are pulled by us, with progress and a limit; an engine stays offline.
OFFLINE: Final[Mapping[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

_SECRET: Final = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(^|_)KEY)", re.IGNORECASE)


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What of ``environ`` a child may see. A name that speaks of a secret never passes."""
    return {
        name: value
        for name, value in environ.items()
        if (name in NAMES or name.startswith(PREFIXES)) and not _SECRET.search(name)
    }


def child_environment(environ: Mapping[str, str], *layers: Mapping[str, str]) -> dict[str, str]:
    """The complete environment of an engine: what may be inherited, kept offline, then each layer
    over the one before: the engine's own needs, and last what the user set for the model."""
    merged = {**inherited(environ), **OFFLINE}
    for layer in layers:
        merged.update(layer)
    return merged


@dataclass(frozen=True, slots=True)
class Platform:
    """Facts that decide which engine suits. ``gpus``: kinds present, ``nvidia`` or ``amd``;
    Apple's is told by :attr:`apple_silicon`."""

    system: str  # "Darwin", "Linux", …
    machine: str  # "arm64", "x86_64", …
    gpus: tuple[str, ...] = ()

    @property
    def apple_silicon(self) -> bool:
        return self.system == "Darwin" and self.machine == "arm64"

    @classmethod
    def here(cls, root: Path = Path("/")) -> Platform:
        """This machine. GPUs by what their kernel drivers publish: asking a driver's library would
        load it into this process."""
        signs = {"nvidia": "proc/driver/nvidia/version", "amd": "dev/kfd"}
        gpus = tuple(kind for kind, sign in signs.items() if (root / sign).exists())
        return cls(platform.system(), platform.machine(), gpus)
