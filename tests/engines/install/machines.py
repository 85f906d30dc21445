"""What the tools of some machines print, cut down to what matters; as published in reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.engines.install.probes import Graphics, Machine, graphics


@dataclass(frozen=True)
class Recorded:
    """One machine. ``said``: by the names of ``probes.TOOLS``."""

    system: str
    arch: str
    said: Mapping[str, str]
    rocm: str = ""
    signs: tuple[str, ...] = ()
    glibc: tuple[int, int] | None = (2, 39)
    seen: Graphics = field(default_factory=Graphics)

    @property
    def machine(self) -> Machine:
        found = graphics(self.said, self.rocm, self.signs)
        return Machine(self.system, self.arch, found, self.glibc)


def smi(driver: str, cuda: str) -> str:
    return f"""\
Sat Nov 21 09:12:40 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI {driver}             Driver Version: {driver}     CUDA Version: {cuda}     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
"""


VULKAN_NVIDIA = """\
==========
VULKANINFO
==========

Vulkan Instance Version: 1.3.275

Devices:
========
GPU0:
\tapiVersion         = 1.3.277
\tdriverVersion      = 550.90.7.0
\tvendorID           = 0x10de
\tdeviceType         = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
\tdeviceName         = NVIDIA GeForce RTX 4090
\tdriverName         = NVIDIA
GPU1:
\tapiVersion         = 1.3.274
\tvendorID           = 0x10005
\tdeviceType         = PHYSICAL_DEVICE_TYPE_CPU
\tdeviceName         = llvmpipe (LLVM 17.0.6, 256 bits)
\tdriverName         = llvmpipe
"""

VULKAN_STRIX = """\
Devices:
========
GPU0:
\tapiVersion         = 1.4.305
\tvendorID           = 0x1002
\tdeviceType         = PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU
\tdeviceName         = AMD Radeon Graphics (RADV GFX1151)
\tdriverName         = radv
"""

VULKAN_RADEON = VULKAN_STRIX.replace("INTEGRATED", "DISCRETE").replace(
    "AMD Radeon Graphics (RADV GFX1151)", "AMD Radeon RX 7900 XTX (RADV NAVI31)"
)

VULKAN_ARC = """\
Devices:
========
GPU0:
\tvendorID           = 0x8086
\tdeviceType         = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
\tdeviceName         = Intel(R) Arc(tm) A770 Graphics (DG2)
"""

VULKAN_SOFT = """\
Devices:
========
GPU0:
\tdeviceType         = PHYSICAL_DEVICE_TYPE_CPU
\tdeviceName         = llvmpipe (LLVM 15.0.6, 256 bits)
"""

ROCM_RADEON = """\
ROCk module is loaded
=====================
HSA Agents
==========
*******
Agent 1
*******
  Name:                    AMD Ryzen 9 7950X 16-Core Processor
  Marketing Name:          AMD Ryzen 9 7950X 16-Core Processor
  Vendor Name:             CPU
  Device Type:             CPU
*******
Agent 2
*******
  Name:                    gfx1100
  Uuid:                    GPU-8f1e2d3c4b5a6978
  Marketing Name:          Radeon RX 7900 XTX
  Vendor Name:             AMD
  Device Type:             GPU
  ISA Info:
    ISA 1
      Name:                    amdgcn-amd-amdhsa--gfx1100
"""

PROFILE_M3 = """\
Graphics/Displays:

    Apple M3 Max:

      Chipset Model: Apple M3 Max
      Type: GPU
      Bus: Built-In
      Total Number of Cores: 40
      Vendor: Apple (0x106b)
      Metal Support: Metal 3
"""

PROFILE_INTEL = """\
Graphics/Displays:

    Intel Iris Plus Graphics 655:

      Chipset Model: Intel Iris Plus Graphics 655
      Type: GPU
      Vendor: Intel
      Metal Support: Metal 3
"""

MACHINES: Mapping[str, Recorded] = {
    "Mac M3 Max": Recorded(
        "Darwin", "arm64", {"system_profiler": PROFILE_M3}, glibc=None,
        seen=Graphics(apple=("Apple M3 Max",)),
    ),
    "Mac with Intel": Recorded("Darwin", "x86_64", {"system_profiler": PROFILE_INTEL}, glibc=None),
    "RTX 4090, driver of CUDA 12.8": Recorded(
        "Linux", "x86_64",
        {"nvidia-smi": smi("570.86.10", "12.8"), "cards": "NVIDIA GeForce RTX 4090, 8.9\n",
         "vulkaninfo": VULKAN_NVIDIA},
        signs=("nvidia",),
        seen=Graphics(
            nvidia=("NVIDIA GeForce RTX 4090",), cuda=(12, 8), capability=(8, 9),
            vulkan=("NVIDIA GeForce RTX 4090",), signs=("nvidia",),
        ),
    ),
    "two cards, driver of CUDA 13.0": Recorded(
        "Linux", "x86_64",
        {"nvidia-smi": smi("580.65.06", "13.0"),
         "cards": "NVIDIA H200, 9.0\nNVIDIA GeForce RTX 2080 Ti, 7.5\n"},
        signs=("nvidia",),
    ),
    "GTX 1080 under the newest driver": Recorded(
        "Linux", "x86_64",
        {"nvidia-smi": smi("590.44.01", "13.4"), "cards": "NVIDIA GeForce GTX 1080, 6.1\n"},
        signs=("nvidia",),
    ),
    "RTX 3060, old driver": Recorded(
        "Linux", "x86_64",
        {"nvidia-smi": smi("535.183.01", "12.2"), "cards": "NVIDIA GeForce RTX 3060, 8.6\n",
         "vulkaninfo": VULKAN_NVIDIA},
        signs=("nvidia",),
    ),
    "DGX Spark": Recorded(
        "Linux", "aarch64",
        {"nvidia-smi": smi("595.20.02", "13.4"), "cards": "NVIDIA GB10, 12.1\n"},
        signs=("nvidia",),
    ),
    "RX 7900 XTX with ROCm 7.2": Recorded(
        "Linux", "x86_64", {"rocminfo": ROCM_RADEON, "vulkaninfo": VULKAN_RADEON},
        rocm="7.2.1-45\n", signs=("amd",),
    ),
    "RX 7900 XTX with ROCm 6": Recorded(
        "Linux", "x86_64", {"rocminfo": ROCM_RADEON, "vulkaninfo": VULKAN_RADEON},
        rocm="6.4.0-1\n", signs=("amd",),
    ),
    "Strix Halo without ROCm": Recorded(
        "Linux", "x86_64", {"vulkaninfo": VULKAN_STRIX}, signs=("amd",)
    ),
    "Arc A770": Recorded("Linux", "x86_64", {"vulkaninfo": VULKAN_ARC}),
    "a card whose tools are not installed": Recorded("Linux", "x86_64", {}, signs=("amd",)),
    "a server without a card": Recorded("Linux", "x86_64", {"vulkaninfo": VULKAN_SOFT}),
    "Alpine": Recorded("Linux", "x86_64", {}, glibc=None),
    "FreeBSD": Recorded("FreeBSD", "amd64", {}, glibc=None),
}  # fmt: skip

TAG = "b11379"
RELEASE = tuple(
    name.format(TAG)
    for name in (
        "llama-{}-bin-macos-arm64.tar.gz", "llama-{}-bin-macos-x64.tar.gz",
        "llama-{}-bin-ubuntu-x64.tar.gz", "llama-{}-bin-ubuntu-arm64.tar.gz",
        "llama-{}-bin-ubuntu-s390x.tar.gz", "llama-{}-bin-ubuntu-vulkan-x64.tar.gz",
        "llama-{}-bin-ubuntu-vulkan-arm64.tar.gz", "llama-{}-bin-ubuntu-cuda-12.8-x64.tar.gz",
        "llama-{}-bin-ubuntu-cuda-13.4-x64.tar.gz", "llama-{}-bin-ubuntu-cuda-13.4-arm64.tar.gz",
        "cudart-llama-{}-bin-ubuntu-cuda-12.8-x64.tar.gz",
        "cudart-llama-{}-bin-ubuntu-cuda-13.4-x64.tar.gz",
        "cudart-llama-{}-bin-ubuntu-cuda-13.4-arm64.tar.gz",
        "llama-{}-bin-ubuntu-rocm-7.2-x64.tar.gz", "llama-{}-bin-ubuntu-openvino-2026.0-x64.tar.gz",
        "llama-{}-bin-win-cuda-12.4-x64.zip", "llama-{}-bin-android-arm64.tar.gz",
        "llama-{}-xcframework.zip",
    )
)  # fmt: skip
"""Names as a release of autumn 2026 has them."""
