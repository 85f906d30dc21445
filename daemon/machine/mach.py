"""What the Mach kernel of a Mac tells, without starting a program: pages and memory pressure.

``host_statistics64`` with ``HOST_VM_INFO64`` of ``<mach/mach_host.h>``; its structure is that of
``<mach/vm_statistics.h>`` (its first revision: later ones only append).
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, Final

_HOST_VM_INFO64: Final = 4
_PRESSURE: Final = b"kern.memorystatus_vm_pressure_level"
_LARGEST_PAGE: Final = 1 << 16


class VmStatistics64(ctypes.Structure):
    """``struct vm_statistics64``, revision 1. Counts are pages."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("free", "active", "inactive", "wired")),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "zero_fill",
                "reactivations",
                "pageins",
                "pageouts",
                "faults",
                "cow_faults",
                "lookups",
                "hits",
                "purges",
            )
        ),
        ("purgeable", ctypes.c_uint32),
        ("speculative", ctypes.c_uint32),
        *(
            (name, ctypes.c_uint64)
            for name in ("decompressions", "compressions", "swapins", "swapouts")
        ),
        *(
            (name, ctypes.c_uint32)
            for name in ("compressor_pages", "throttled", "file_backed", "anonymous")
        ),
        ("uncompressed_in_compressor", ctypes.c_uint64),
    )


def available(library: Any = None) -> int | None:
    """Bytes that can be had: free (speculative ones among them), inactive and purgeable pages.

    None where the kernel does not tell; then ``vm_stat`` may. ``library`` is for the tests.
    """
    library = library if library is not None else _system()
    if library is None:
        return None
    host = _host() if library is _system() else library.mach_host_self()
    page = ctypes.c_size_t()
    if library.host_page_size(host, ctypes.byref(page)) != 0:
        return None
    if not 0 < page.value <= _LARGEST_PAGE:
        return None
    seen = VmStatistics64()
    # The length is counted in 32-bit integers.
    length = ctypes.c_uint32(ctypes.sizeof(seen) // 4)
    status = library.host_statistics64(
        host, _HOST_VM_INFO64, ctypes.byref(seen), ctypes.byref(length)
    )
    if status != 0 or not seen.wired:
        return None
    return int(page.value * (seen.free + seen.inactive + seen.purgeable))


def pressure_level(library: Any = None) -> int | None:
    """The system's own verdict: 1 normal, 2 warning, 4 critical; None where it does not tell."""
    library = library if library is not None else _system()
    if library is None:
        return None
    level, size = ctypes.c_int(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    asked = library.sysctlbyname(_PRESSURE, ctypes.byref(level), ctypes.byref(size), None, 0)
    return level.value if asked == 0 else None


@lru_cache(maxsize=1)
def _host() -> int:
    """The port of this host: asked once, since each answer is a reference that has to be kept."""
    library = _system()
    assert library is not None, "the caller has looked"
    return int(library.mach_host_self())


@lru_cache(maxsize=1)
def _system() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("/usr/lib/libSystem.B.dylib")
        library.mach_host_self.restype = ctypes.c_uint32
        pointer = ctypes.c_void_p
        library.host_page_size.argtypes = [ctypes.c_uint32, pointer]
        library.host_statistics64.argtypes = [ctypes.c_uint32, ctypes.c_int, pointer, pointer]
        library.sysctlbyname.argtypes = [
            ctypes.c_char_p,
            pointer,
            pointer,
            pointer,
            ctypes.c_size_t,
        ]
    except (OSError, AttributeError):
        return None
    return library
