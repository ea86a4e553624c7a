"""Faults in fits on a grid of replicas.

The outcomes are those of the table, but for the names of exchanges: replicas of one
shard exchange gradients and parameters in place of deltas and activations.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.faults.clusters import Clusters
from tests.cluster.faults.gates import BACKWARD, FORWARD, PHASES
from tests.cluster.faults.page import PHASES_TABLE, Cell
from tests.cluster.faults.table import FAULTS, Expected, Fault
from tests.cluster.faults.test_faults import OFTEN, check_fault, clusters

__all__ = ["clusters"]  # the fixture

TWO_REPLICAS, TWO_BY_TWO = (2, 2), (4, 2)
"""Numbers of workers and of replicas."""

NAMES = {
    FORWARD: "the exchange of parameters",
    BACKWARD: "the exchange of gradients",
}
"""What errors say of the exchanges of replicas of one shard."""

QUICK = {
    ("worker killed", FORWARD, TWO_REPLICAS),
    ("worker killed", BACKWARD, TWO_BY_TWO),
}
"""Those that run with the other tests."""

CELLS = [
    pytest.param(
        fault,
        phase,
        grid,
        id=f"{fault.name}-{phase}-{grid[0]} workers",
        marks=[] if (fault.name, phase, grid) in QUICK else pytest.mark.slow,
    )
    for fault in FAULTS
    for phase in PHASES
    for grid in (TWO_REPLICAS, TWO_BY_TWO)
    if isinstance(fault.cells[phase], Expected)
    and (grid == TWO_REPLICAS or fault.name in OFTEN)
    # Its next fit has to do without the victim, on all other workers.
    and fault.rank < 2
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("fault", "phase", "grid"), CELLS)
def test_a_fault_on_a_grid_ends_as_expected_and_in_time(
    clusters: Clusters, tmp_path: Path, data, fault: Fault, phase: str, grid
):
    expected = fault.cells[phase]
    assert isinstance(expected, Expected)
    if grid == TWO_REPLICAS:
        says = tuple(NAMES.get(said, said) for said in expected.says)
        expected = replace(expected, says=says)
    cell = Cell(PHASES_TABLE, fault.name, phase, str(expected), expected.within_s)
    check_fault(clusters, cell, tmp_path, data, fault, phase, expected, grid)
