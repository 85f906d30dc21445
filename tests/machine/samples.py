"""What the systems' programs print, in their formats. Numbers of machines in daily use."""

from __future__ import annotations


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
