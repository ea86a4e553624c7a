"""What the C library keeps of the memory that a process has freed."""

import ctypes
import sys


def return_freed_memory() -> None:
    """Return to the system what this process has freed, where the C library can.

    The allocator of glibc keeps much of what was freed for the next allocation, and so
    it counts as taken, although the next fit would get it. A worker that Dask has
    paused for it would stay paused.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
