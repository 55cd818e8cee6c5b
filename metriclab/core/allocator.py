"""How the process asks the system for memory."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets the C library keep what is freed for what is asked for next; whether it does so from now on.

    glibc gives a large tensor's memory back to the system as soon as it is freed, and the next tensor of that size is
    paid for page by page again, in every step on a CPU. The peak of the process hardly changes, but it keeps what it
    had at its peak. Other C libraries, and what the user has set by MALLOC_ variables, are left alone.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST))
