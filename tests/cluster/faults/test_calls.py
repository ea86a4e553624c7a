"""Every fault around every call, on real processes."""

import re
import time

import pytest

from tests.cluster.faults.calls import CALL_FAULTS, CALLS, CTRL_C
from tests.cluster.faults.gates import FitOutcome
from tests.cluster.faults.page import Cell
from tests.cluster.faults.table import INTERRUPTED, PARAMETERS_KEPT, Expected
from tests.marks import only_quick
from tests.terminal import Command, running

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


def press_ctrl_c(
    terminal: Command, when: str, what: str, outcome: str
) -> tuple[FitOutcome, float]:
    """Interrupt a call in a terminal; return how it ended, and after how long."""
    terminal.wait_until_it_shows(when)
    began = time.monotonic()
    terminal.interrupt()
    terminal.wait_until_it_shows(f"after {what}: .*\n")
    seconds = time.monotonic() - began
    assert re.search(f"after {what}: {outcome}", terminal.shown), terminal.shown
    error = None if "interrupted" in outcome else KeyboardInterrupt
    return FitOutcome(error), seconds


@pytest.mark.parametrize("engine", only_quick(0, cases=["peers", "futures"]))
def test_ctrl_c_with_a_local_cluster_ends_as_expected_and_in_time(faults_page, engine):
    """In a terminal, whose signal reaches the workers too, at three moments."""
    cells = [
        Cell(CTRL_C, f"fit, {engine}", str(PARAMETERS_KEPT), 10),
        Cell(CTRL_C, f"predict, {engine}", str(INTERRUPTED), 10),
    ]
    script = "-m", "tests.cluster.local_cluster_client"
    with (
        running(*script, engine, shows_stdout=True) as terminal,
        faults_page.cell(cells[0]),
        faults_page.cell(cells[1]),
    ):
        press_ctrl_c(terminal, "ready: placing", "placing", "KeyboardInterrupt")
        kept = "Training interrupted by user"
        cells[0].note(*press_ctrl_c(terminal, "Iteration 2,", "fit", kept))
        cells[0].remark = "while placing: KeyboardInterrupt"
        cells[1].note(
            *press_ctrl_c(terminal, "ready: predict", "predict", "KeyboardInterrupt")
        )
        terminal.wait_until_it_shows("workers are .*\n")
        assert "kept epochs: 0" not in terminal.shown, terminal.shown
        assert "once more on 2 workers" in terminal.shown, terminal.shown
        assert "workers are as before" in terminal.shown, terminal.shown
        for cell in cells:
            assert cell.seconds < cell.within_s
        assert terminal.end()[0] == 0
