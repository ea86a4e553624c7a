"""What the processes of a cluster hold after each of many fits.

Workers import this module.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

import psutil
from dask.utils import key_split
from distributed import Client

from skdistmlp.cluster.client.allocator import return_freed_memory

SHORT_HISTORIES: Mapping[str, int] = {
    "distributed.admin.low-level-log-length": 100,
    "distributed.admin.log-length": 100,
}
"""Lengths of Dask's histories: of the messages and events of each connection, and of
the log. They are 1000 and 10,000 by default, and grow for hundreds of fits."""

WARM_UP = 10
"""Number of fits after which a process has loaded and allocated all that it needs."""

RESIDENT_ALLOWANCE = 48 * 2**20
"""Bytes by which the resident memory of a process may grow after that. Much of it is
memory that was freed: glibc gives threads several arenas, and what is used in them lies
more and more scattered."""

IN_USE_ALLOWANCE = 8 * 2**20
"""Bytes by which arrays and other large objects may grow. They grew by 0.9 MiB, and the
resident memory by 17.0, in the process of client and scheduler between 10 and 80 fits
of ``SKDISTMLP_SOAK_FITS=80 pytest -m slow -k random_faults``. A copy of the rows that
stays after each fit takes 0.9 MiB."""

MORE_OBJECTS = 10
"""Objects of a class that may be more: a process may need some for the first time
later."""


def show(line: str) -> None:
    print(line, flush=True)  # noqa: T201


class Held(NamedTuple):
    """What a process holds.

    Attributes
    ----------
    pid : int
        Its number.
    resident : int
        Bytes of memory that are resident.
    in_use : int
        Bytes that glibc has allocated and that were not freed: arrays and other large
        objects. Python takes small ones from elsewhere.
    objects : Counter of str
        The number of objects of each class of this package.
    """

    pid: int
    resident: int
    in_use: int
    objects: Counter[str]


def held_here() -> Held:
    """Return what this process holds, without garbage and what Dask remembers."""
    # Dask remembers the keys of the last 100,000 tasks, each 400 bytes here: see
    # test_what_dask_remembers_of_tasks_is_not_counted.
    key_split.cache_clear()
    gc.collect()
    return_freed_memory()
    kinds = (type(each) for each in gc.get_objects())
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    objects = Counter(name for name in names if name.startswith("skdistmlp."))
    resident = psutil.Process().memory_info().rss
    return Held(os.getpid(), resident, allocated_bytes(), objects)


class MallInfo(ctypes.Structure):
    """What ``mallinfo2`` of glibc returns."""

    _fields_ = (
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    )


def allocated_bytes() -> int:
    """Return how many bytes glibc has allocated; 0 with another C library."""
    if sys.platform != "linux":
        return 0
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = MallInfo
    found = mallinfo2()
    return int(found.uordblks + found.hblkhd)


class Memory:
    """What processes hold after each fit, of clusters with `SHORT_HISTORIES`."""

    def __init__(self) -> None:
        self._found: dict[str, list[Held]] = defaultdict(list)

    def look(self, client: Client) -> None:
        """Look at this process, which has the scheduler too, and at the workers."""
        found = {"client and scheduler": held_here(), **client.run(held_here)}
        for where, held in found.items():
            self._found[f"{where}, process {held.pid}"].append(held)

    def check(self) -> None:
        """Print the growth of each process after warm-up; fail if it is too large."""
        for name, held in self._found.items():
            if len(held) < 2 * WARM_UP:
                continue
            resident = growth([each.resident for each in held])
            in_use = growth([each.in_use for each in held])
            objects = more_objects([each.objects for each in held])
            show(
                f"{name}: {held[WARM_UP].resident / 2**20:.0f} MiB after {WARM_UP} "
                f"fits, {resident / 2**20:+.1f} after {len(held)}, in use "
                f"{in_use / 2**20:+.1f}, more objects: {objects}"
            )
            assert resident < RESIDENT_ALLOWANCE, name
            assert in_use < IN_USE_ALLOWANCE, name
            assert max(objects.values(), default=0) <= MORE_OBJECTS, name


def growth(sizes: list[int]) -> float:
    """Return by how much sizes after each fit have grown since the warm-up."""
    return median(sizes[-5:]) - median(sizes[WARM_UP : WARM_UP + 5])


def more_objects(counts: list[Counter[str]]) -> dict[str, int]:
    """Return of which classes more objects are left after late fits than after early.

    The fewest after one of the last fits, compared with the most after one that follows
    the warm-up: Dask's histories have objects of the last fits.
    """
    early, late = counts[WARM_UP : 2 * WARM_UP], counts[-WARM_UP:]
    more = {
        kind: min(each[kind] for each in late) - max(each[kind] for each in early)
        for kind in late[-1]
    }
    return {kind: number for kind, number in more.items() if number > 0}
