"""Which workers a plan leaves out: slow ones, and those that are short of memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal, NamedTuple

from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.machines import Link, Speed
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.worker_lines import named


class LeftOut(NamedTuple):
    """A worker that a plan leaves out, and why.

    Attributes
    ----------
    worker : str
        Its address.
    why : {"worker", "link", "memory"}
        Whether it computes slowly, has a slow link, or is short of memory.
    times : float or None
        How many times as slow as those of the plan it, or its link, is; None if it is
        short of memory.
    bytes_needed, bytes_free : int or None
        What it would need and what it has, if it is short of memory.
    """

    worker: str
    why: Literal["worker", "link", "memory"]
    times: float | None = None
    bytes_needed: int | None = None
    bytes_free: int | None = None

    @classmethod
    def short_of_memory(
        cls, needed: Mapping[str, int], memory: Mapping[str, WorkerMemory]
    ) -> list[LeftOut]:
        """Return the workers that have less memory than they would need.

        Parameters
        ----------
        needed : mapping of str to int
            Bytes, by worker.
        memory : mapping of str to WorkerMemory
            By address; a worker that is missing has no limit.
        """
        return [
            cls(worker, "memory", bytes_needed=n_bytes, bytes_free=memory[worker].free)
            for worker, n_bytes in needed.items()
            if worker in memory and n_bytes > memory[worker].free
        ]


def slow_workers(
    taken: Sequence[str], workers: Sequence[str], speeds: Sequence[Speed]
) -> list[LeftOut]:
    """Return the workers that a plan leaves out since they are slow.

    Parameters
    ----------
    taken : sequence of str
        Addresses of those of the plan; without any, none is left out.
    workers : sequence of str
        Addresses of all workers.
    speeds : sequence of Speed
        How fast they are; in the same order.
    """
    slowness = {
        worker: speed.correction(Grid(1))
        for worker, speed in zip(workers, speeds, strict=True)
    }
    of_taken = [slowness[worker] for worker in taken]
    if not of_taken:
        return []
    return [
        LeftOut(worker, "worker", its / median(of_taken))
        for worker, its in slowness.items()
        if worker not in taken and its > max(of_taken)
    ]


def slow_links(
    link: Link | None, workers: Sequence[str], links: Sequence[Link]
) -> list[LeftOut]:
    """Return the workers that a plan leaves out for their links.

    Parameters
    ----------
    link : Link or None
        Between those of the plan: none of them has a slower one. None if there are
        fewer than two.
    workers : sequence of str
        Addresses of all workers.
    links : sequence of Link
        Their links; in the same order.
    """
    if link is None:
        return []
    slowness = [its.slowness / link.slowness for its in links]
    return [
        LeftOut(worker, "link", times)
        for worker, times in zip(workers, slowness, strict=True)
        if times > 1
    ]


def left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """Say which workers are left out: a line for each reason."""
    lines = []
    by_speed, by_link, by_memory = (
        [each for each in left_out if each.why == why]
        for why in ("worker", "link", "memory")
    )
    if by_speed:
        lines.append(f"{_are_left_out(by_speed)}, {_times(by_speed)} as the others")
    if by_link:
        links = "its link is" if len(by_link) == 1 else "their links are"
        lines.append(
            f"{_are_left_out(by_link)}: {links} {_times(by_link)} as the others"
        )
    if by_memory:
        have = "it has" if len(by_memory) == 1 else "they have"
        needed = max(each.bytes_needed or 0 for each in by_memory)
        lines.append(
            f"{_are_left_out(by_memory)}: {have} {_bytes_free(by_memory)} bytes of "
            f"memory free, of {needed:,} that are needed"
        )
    return lines


def _are_left_out(left_out: Sequence[LeftOut]) -> str:
    workers = [each.worker for each in left_out]
    return f"{named(workers)} {'is' if len(workers) == 1 else 'are'} left out"


def _times(left_out: Sequence[LeftOut]) -> str:
    """Say how slow they are: the least and the most, if these differ."""
    ratios = [each.times or 0.0 for each in left_out]
    least, most = f"{min(ratios):.1f}", f"{max(ratios):.1f}"
    return f"{least if least == most else f'{least} to {most}'} times as slow"


def _bytes_free(left_out: Sequence[LeftOut]) -> str:
    """Say what memory they have: the least and the most, if these differ."""
    free = [each.bytes_free or 0 for each in left_out]
    least, most = f"{min(free):,}", f"{max(free):,}"
    return least if least == most else f"{least} to {most}"
