"""What the systems' programs print, in their formats. Numbers of machines in daily use."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.core.units import GIB, MIB
from daemon.machine.base import MachineFacts, PoolFacts, Shared, unify
from daemon.machine.macos import unified_pool


def vm_stat(free: int, active: int, inactive: int, speculative: int, wired: int, purge: int) -> str:
    """``vm_stat`` of an Apple Silicon Mac, in pages of 16 KiB."""
    return f"""\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                             {free:>10}.
Pages active:                           {active:>10}.
Pages inactive:                         {inactive:>10}.
Pages speculative:                      {speculative:>10}.
Pages throttled:                                 0.
Pages wired down:                       {wired:>10}.
Pages purgeable:                        {purge:>10}.
"Translation faults":                    934823471.
Pages copy-on-write:                      43921184.
Pages zero filled:                       512003817.
Pages reactivated:                        18237461.
Pages purged:                              9812346.
File-backed pages:                          281442.
Anonymous pages:                            402117.
Pages stored in compressor:                 512881.
Pages occupied by compressor:               148221.
Decompressions:                           21833471.
Compressions:                             29112837.
Pageins:                                  14428173.
Pageouts:                                   128831.
Swapins:                                    881231.
Swapouts:                                   912283.
"""


# GiB of memory: (vm_stat, pages that can be had)
MACS = {
    16: (vm_stat(8_213, 331_870, 318_442, 9_117, 171_203, 4_881), 8_213 + 318_442 + 9_117 + 4_881),
    24: (
        vm_stat(61_204, 512_331, 498_775, 12_880, 210_441, 22_817),
        61_204 + 498_775 + 12_880 + 22_817,
    ),
    64: (
        vm_stat(1_912_004, 901_223, 880_431, 55_210, 301_118, 91_442),
        1_912_004 + 880_431 + 55_210 + 91_442,
    ),
}

INTEL_VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 4096 bytes)
Pages free:                              100000.
Pages inactive:                          200000.
Pages speculative:                         3000.
Pages purgeable:                            400.
"""

SYSCTL = "hw.memsize: 25769803776\niogpu.wired_limit_mb: 0\n"

MEMINFO = """\
MemTotal:       24684096 kB
MemFree:        18453964 kB
MemAvailable:   22393736 kB
Buffers:            3556 kB
Cached:          4047540 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""

STATUS = """\
Name:	llama-server
Umask:	0077
State:	S (sleeping)
VmPeak:	 2048000 kB
VmRSS:	 1077248 kB
RssAnon:	   16384 kB
RssFile:	 1060864 kB
Threads:	9
"""

ROLLUP = """\
55d0c0000000-7ffd5a9ff000 ---p 00000000 00:00 0                          [rollup]
Rss:             1077248 kB
Pss:              539648 kB
Pss_Dirty:         16384 kB
Shared_Clean:    1060864 kB
"""

# Public reports of what Metal recommends to wire, in llama.cpp's logs (decimal megabytes): older
# and newer systems give different shares of the same memory.
WORKING_SETS = {
    16: (11453.25, 12713.12),
    24: (17179.89, 19069.67),
    32: (22906.50, None),
    36: (28991.03, 30150.67),
    64: (51539.61, 55662.79),
    128: (103079.22, 115448.73),
}


@dataclass(frozen=True)
class Machine:
    """A machine as its sources tell it: memories in bytes, by pool."""

    pools: tuple[PoolFacts, ...]
    platform: str = "linux"

    def facts(self) -> MachineFacts:
        return MachineFacts(self.pools, self.pools[-1].total, self.platform)


def mac(size: int, working_set_mb: float, free: float = 0.75) -> Machine:
    total = size * GIB
    pool = unified_pool(total, 0, int(working_set_mb * 10**6), int(total * free))
    return Machine((pool,), "darwin")


def cards(ram: int, *totals: int, source: str = "NVML") -> Machine:
    """``ram`` in GiB, cards in MiB as the driver tells them; a screen takes some of the first."""
    gpus = [
        PoolFacts(f"gpu{i}", total * MIB, (total - (700 if i == 0 else 400)) * MIB, None, source)
        for i, total in enumerate(totals)
    ]
    main = PoolFacts("ram", ram * GIB - GIB, ram * GIB * 7 // 8, None, "MemAvailable")
    return Machine((*gpus, main))


def board(total_kb: int, available_kb: int, shared: Shared) -> Machine:
    main = PoolFacts("ram", total_kb * 1024, available_kb * 1024, None, "MemAvailable")
    return Machine(unify([main], shared))


MACHINES = {
    "Mac 16 GB": mac(16, 11453.25, 0.6),
    "Mac 24 GB": mac(24, 17179.89),
    "Mac 24 GB, newer macOS": mac(24, 19069.67),
    "Mac 36 GB": mac(36, 28991.03),
    "Mac 64 GB": mac(64, 51539.61),
    "Mac 128 GB": mac(128, 103079.22),
    "RTX 3060, 12 GB": cards(32, 12288),
    "RTX 4080, 16 GB": cards(64, 16376),
    "RTX 3090, 24 GB": cards(64, 24576),
    "RTX 4090, 24 GB": cards(64, 24564),
    "2 x RTX 3090": cards(64, 24576, 24576),
    "RTX 5090, 32 GB": cards(64, 32607),
    "RX 7900 XTX, 24 GB": cards(64, 24560, source="amdgpu"),
    # ttm.pages_limit=25165824, 4 GiB carved out
    "Strix Halo 128 GB": board(
        127_926_272, 121_634_816, Shared(103_079_215_104, "amdgpu, shared memory", "0000:c3:00.0")
    ),
    "GB10 128 GB": board(127_600_748, 118_566_368, Shared(None, "NVIDIA, shared memory", "GPU-1")),
}

FDINFO_OLD = """\
pos:	0
flags:	02100002
mnt_id:	26
ino:	811
pasid:	32771
drm-driver:	amdgpu
drm-pdev:	0000:03:00.0
drm-client-id:	42
drm-memory-vram:	16777216 KiB
drm-memory-gtt: 	262144 KiB
drm-memory-cpu: 	0 KiB
amd-memory-visible-vram:	1024 KiB
drm-engine-gfx:	8107337 ns
"""

FDINFO_NEW = """\
pos:	0
drm-driver:	amdgpu
drm-client-id:	7
drm-pdev:	0000:03:00.0
drm-total-vram:	21504 MiB
drm-shared-vram:	0
drm-resident-vram:	20480 MiB
drm-total-gtt:	0
drm-resident-gtt:	0
"""

FDINFO_OTHER = """\
pos:	0
flags:	02000002
mnt_id:	15
eventfd-count:                0
"""

PSI_CALM = """\
some avg10=0.00 avg60=0.00 avg300=0.00 total=0
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""

PSI_BUSY = """\
some avg10=61.20 avg60=33.91 avg300=9.80 total=88102331
full avg10=42.77 avg60=21.04 avg300=6.11 total=60111298
"""
