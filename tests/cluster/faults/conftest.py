"""What the tests of faults share: the page that they write, and data."""

from collections.abc import Iterator, Mapping

import pytest

from tests.cluster.faults.calls import CALL_FAULTS, CALLS, CTRL_C
from tests.cluster.faults.gates import ALL_PHASES, PHASES
from tests.cluster.faults.page import CALLS_TABLE, PHASES_TABLE, FaultsPage, Table
from tests.cluster.faults.recovery_table import GRIDS
from tests.cluster.faults.table import FAULTS


@pytest.fixture(scope="session")
def faults_page(request: pytest.FixtureRequest) -> Iterator[FaultsPage]:
    """The page; written at the end if pytest was asked to."""
    page = FaultsPage()
    yield page
    path = request.config.getoption("--faults-page", None)
    if path is not None:
        recovering = [
            Table(grid.title, ALL_PHASES, _reasons(grid.faults), grid.text)
            for grid in GRIDS
        ]
        tables = [
            *recovering,
            Table(PHASES_TABLE, PHASES, _reasons(FAULTS)),
            Table(CALLS_TABLE, CALLS, _reasons(CALL_FAULTS) | {CTRL_C: {}}),
        ]
        page.write(path, tables)


def _reasons(faults: list) -> dict[str, Mapping[str, str]]:
    return {
        fault.name: {
            column: why for column, why in fault.cells.items() if isinstance(why, str)
        }
        for fault in faults
    }


@pytest.fixture(scope="module")
def data(digits):
    """Rows and classes of a small fit."""
    X, y = digits
    return X[:300], y[:300]
