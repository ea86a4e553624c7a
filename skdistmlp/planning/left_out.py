"""Which workers a plan leaves out since they, or their links, are slow."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal, NamedTuple

from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.machines import Link, Speed
from skdistmlp.planning.worker_lines import named


class LeftOut(NamedTuple):
    """A worker that a plan leaves out, and why.

    Attributes
    ----------
    worker : str
        Its address.
    slow : {"worker", "link"}
        Whether it computes slowly, or has a slow link.
    times : float
        How many times as slow as those of the plan.
    """

    worker: str
    slow: Literal["worker", "link"]
    times: float


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
    by_speed = [each for each in left_out if each.slow == "worker"]
    by_link = [each for each in left_out if each.slow == "link"]
    if by_speed:
        lines.append(f"{_are_left_out(by_speed)}, {_times(by_speed)} as the others")
    if by_link:
        links = "its link is" if len(by_link) == 1 else "their links are"
        lines.append(
            f"{_are_left_out(by_link)}: {links} {_times(by_link)} as the others"
        )
    return lines


def _are_left_out(left_out: Sequence[LeftOut]) -> str:
    workers = [each.worker for each in left_out]
    return f"{named(workers)} {'is' if len(workers) == 1 else 'are'} left out"


def _times(left_out: Sequence[LeftOut]) -> str:
    """Say how slow they are: the least and the most, if these differ."""
    ratios = [each.times for each in left_out]
    least, most = f"{min(ratios):.1f}", f"{max(ratios):.1f}"
    return f"{least if least == most else f'{least} to {most}'} times as slow"
