"""Print Metal's recommendedMaxWorkingSetSize in bytes. Run as a program, in a process of its own.

Standard library only: it is started by its path, outside the package.
"""

from __future__ import annotations

import ctypes
import sys


def working_set() -> int:
    """Bytes that Metal recommends to wire at most on the default GPU; 0 where there is none.

    Raises OSError where this is no Mac.
    """
    # Without CoreGraphics a command-line program is given no device.
    ctypes.CDLL("/System/Library/Frameworks/CoreGraphics.framework/CoreGraphics")
    metal = ctypes.CDLL("/System/Library/Frameworks/Metal.framework/Metal")
    objc = ctypes.CDLL("/usr/lib/libobjc.A.dylib")
    metal.MTLCreateSystemDefaultDevice.restype = ctypes.c_void_p
    device = metal.MTLCreateSystemDefaultDevice()
    if not device:
        return 0
    objc.sel_registerName.restype = ctypes.c_void_p
    objc.sel_registerName.argtypes = [ctypes.c_char_p]
    # objc_msgSend has to be called with the exact signature of the method.
    send = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(
        ("objc_msgSend", objc)
    )
    return int(send(device, objc.sel_registerName(b"recommendedMaxWorkingSetSize")))


if __name__ == "__main__":
    try:
        print(working_set())
    except (OSError, AttributeError):
        sys.exit(1)
