"""Faults in fits that recover: the same parameters as if nothing had happened."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.faults.clusters import Clusters
from tests.cluster.faults.fits import REPEATED
from tests.cluster.faults.gates import ALL_PHASES
from tests.cluster.faults.page import Cell, FaultsPage
from tests.cluster.faults.recovery_table import GRIDS, RECOVERING, RecoveryGrid
from tests.cluster.faults.table import Expected, Fault
from tests.cluster.faults.test_faults import check_fault, clusters

__all__ = ["clusters"]  # the fixture

CELLS = [
    pytest.param(grid, fault, phase, id=f"{fault.name}-{phase}-{grid.shape}")
    for grid in GRIDS
    for fault in grid.faults
    for phase in ALL_PHASES
    if isinstance(fault.cells[phase], Expected)
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("grid", "fault", "phase"), CELLS)
def test_a_fit_survives_a_fault(
    clusters: Clusters,
    faults_page: FaultsPage,
    tmp_path: Path,
    data,
    grid: RecoveryGrid,
    fault: Fault,
    phase: str,
):
    expected = fault.cells[phase]
    assert isinstance(expected, Expected)
    fault = replace(fault, settings=fault.settings | RECOVERING)
    cell = Cell(grid.title, fault.name, phase, str(expected), expected.within_s)
    with faults_page.cell(cell):
        check_fault(
            clusters,
            cell,
            tmp_path,
            data,
            fault,
            phase,
            expected,
            grid.shape,
            REPEATED,
            grid.n_spare(fault),
        )
