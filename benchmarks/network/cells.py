"""What is measured in the lab: a network on a link."""

from typing import NamedTuple

from benchmarks.network.links import Link
from skdistmlp.crossover.workloads import Workload


class Cell(NamedTuple):
    """One network on one link.

    Attributes
    ----------
    link : Link
        Of every machine.
    workload : Workload
        What is trained.
    """

    link: Link
    workload: Workload
