"""Every fault around every call, on real processes."""

import re

import pytest

from tests.cluster.faults.calls import CALL_FAULTS, CALLS
from tests.cluster.faults.page import Cell
from tests.cluster.faults.table import Expected

CELLS = [
    pytest.param(
        fault,
        name,
        id=f"{fault.name}-{name}",
        marks=[] if name in fault.often else pytest.mark.slow,
    )
    for fault in CALL_FAULTS
    for name in CALLS
    if isinstance(fault.cells[name], Expected)
]


@pytest.mark.parametrize(("fault", "name"), CELLS)
def test_a_fault_around_a_call_ends_as_expected_and_in_time(
    tmp_path, faults_page, data, fault, name
):
    call, expected = CALLS[name], fault.cells[name]
    cell = Cell(fault.name, name, str(expected), expected.within_s)
    with faults_page.cell(cell):
        outcome, seconds = fault.inflict(call, data, tmp_path)
        cell.note(outcome, seconds)
        if expected.error is None:
            call.assert_right(outcome, data)
        else:
            assert issubclass(outcome.error or int, expected.error), outcome
        for pattern in expected.says:
            assert re.search(pattern, outcome.text), outcome.text
        assert seconds < expected.within_s
