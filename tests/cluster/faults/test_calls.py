"""Every fault around every call, on real processes."""

import gc
import re
import time
from contextlib import ExitStack
from itertools import permutations

import dask
import dask.array as da
import pytest
from distributed import Client

from skdistmlp import ExchangeError
from skdistmlp.cluster.data.dask_collections import persist_blocks, release, wait_for
from tests.cluster.data.inputs import classifier
from tests.cluster.faults.calls import CALL_FAULTS, CALLS, CTRL_C
from tests.cluster.faults.clusters import SETTINGS
from tests.cluster.faults.fits import FitOutcome
from tests.cluster.faults.page import CALLS_TABLE, Cell
from tests.cluster.faults.table import INTERRUPTED, PARAMETERS_KEPT, SHORT, Expected
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.partition import HOSTS, blocked, cluster_with_hosts
from tests.cluster.support import bounded
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
@pytest.mark.slow
def test_a_fault_around_a_call_ends_as_expected_and_in_time(
    tmp_path, faults_page, data, fault, name
):
    call, expected = CALLS[name], fault.cells[name]
    cell = Cell(CALLS_TABLE, fault.name, name, str(expected), expected.within_s)
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


def persist(clf, X, _):
    """Compute X again, as a fit does if it has released what it had computed."""
    (blocks,) = persist_blocks(clf.client, [X])
    try:
        wait_for(clf.client, blocks)
    finally:
        release(blocks)


OF_COLLECTIONS = {
    "score": lambda clf, X, y: clf.score(X, y),
    "fit": lambda clf, X, y: clf.fit(X, y),
    "persist": persist,
}


@pytest.mark.parametrize("call", only_quick(0, cases=OF_COLLECTIONS))
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.slow
def test_workers_that_cannot_reach_each_other_end_a_computation(
    tmp_path, data, caplog, call
):
    """Of a Dask collection: the mean of all rows needs values of both."""
    with (
        cluster_with_hosts(tmp_path, SETTINGS) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        remember(client)
        clf = classifier(None, engine="local").fit(*data)
        clf.set_params(client=client, engine="peers")
        X = da.from_array(data[0], chunks=(50, -1))
        with ExitStack() as on_exit:
            for pair in permutations(client.nthreads()):
                on_exit.enter_context(blocked(client, *pair))
            on_exit.enter_context(dask.config.set(SHORT))
            raised = on_exit.enter_context(pytest.raises(ExchangeError))
            bounded(OF_COLLECTIONS[call], clf, X - X.mean(axis=0), data[1])
        said = str(raised.value)
        assert re.match(r"worker .* could not connect to worker .* within 2 s", said)
        assert set(re.findall(r"worker tcp://(.*?):\d", said)) == set(HOSTS)
        assert_nothing_left(client)
    gc.collect()
    # Of Dask's own gather, if it were cancelled.
    assert "Task exception was never retrieved" not in caplog.text


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
@pytest.mark.slow
def test_ctrl_c_with_a_local_cluster_ends_as_expected_and_in_time(faults_page, engine):
    """In a terminal, whose signal reaches the workers too, at three moments."""
    cells = [
        Cell(CALLS_TABLE, CTRL_C, f"fit, {engine}", str(PARAMETERS_KEPT), 10),
        Cell(CALLS_TABLE, CTRL_C, f"predict, {engine}", str(INTERRUPTED), 10),
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
