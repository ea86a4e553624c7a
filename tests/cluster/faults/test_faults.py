"""Every fault in every phase of a fit, on real processes.

Each cell of the table is a test: the caller gets the expected outcome in time, nothing
is left behind, and the next fit on the same cluster is right.
"""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import pytest
from distributed import Client

from skdistmlp.exceptions import ExchangeError, WorkerLostError
from skdistmlp.parallel.grid import Grid
from tests.cluster.faults import gates
from tests.cluster.faults.clusters import (
    LONG_TIMEOUT,
    SETTINGS,
    Clusters,
    FitInThread,
    Scenario,
    assert_right,
)
from tests.cluster.faults.fits import ONCE, FitOutcome, Training
from tests.cluster.faults.gates import PHASES, Gate
from tests.cluster.faults.page import PHASES_TABLE, Cell, FaultsPage
from tests.cluster.faults.table import (
    CLIENT_KILLED,
    FAULTS,
    IN_TURNS,
    PARAMETERS_KEPT,
    RIGHT,
    Expected,
    Fault,
    Survives,
)
from tests.cluster.forked import ForkedProcesses
from tests.conftest import assert_nothing_left

BOUND_S = 30.0
"""Seconds after which a fit counts as hanging; not a measure of speed."""

WORKERS_END_WITHIN_S = 20.0
"""How long workers may outlive their scheduler; not a measure of speed."""

OFTEN = {
    "worker killed",
    "worker suspended (SIGSTOP), resumed during the next fit",
    "connections between shards cut",
    "exception in a shard",
    "client killed",
    "client interrupted once",
    "scheduler killed",
}
"""Faults that run with the other tests, in `PHASE`; the whole table takes minutes."""

PHASE = "between rounds"

assert {fault.name for fault in FAULTS} >= OFTEN

CELLS = [
    pytest.param(
        fault,
        phase,
        id=f"{fault.name}-{phase}",
        marks=[] if fault.name in OFTEN and phase == PHASE else pytest.mark.slow,
    )
    for fault in FAULTS
    for phase in PHASES
    if isinstance(fault.cells[phase], Expected)
]


@pytest.fixture(scope="module")
def clusters(tmp_path_factory) -> Iterator[Clusters]:
    with Clusters(lambda: tmp_path_factory.mktemp("dask")) as shared:
        yield shared


def assert_outcome(outcome: FitOutcome, expected: Expected, scenario: Scenario) -> None:
    if expected.error is None:
        assert outcome.error is None, outcome.text
    else:
        assert issubclass(outcome.error or int, expected.error), outcome
    n_workers, n_replicas = scenario.grid
    grid = Grid(n_workers // n_replicas, n_replicas)
    names = {
        "worker": re.escape(scenario.victim),
        "scheduler": re.escape(scenario.cluster.address),
        "task": grid.task_name(scenario.rank),
    }
    for pattern in expected.says:
        assert re.search(pattern.format(**names), outcome.text), outcome.text
    if outcome.error in (ExchangeError, WorkerLostError):
        # Every message says when it happened and what to do.
        assert re.search(r"while \w+ing\b", outcome.text), outcome.text
        assert re.search(r"[Cc]all again", outcome.text), outcome.text
    if expected in (RIGHT, IN_TURNS):
        assert_right(outcome, scenario.data)
    if expected is PARAMETERS_KEPT:
        assert all(np.isfinite(each).all() for each in outcome.values)


def assert_same(outcome: FitOutcome, undisturbed: FitOutcome) -> None:
    """Check that all parameters are, bit for bit, those of an undisturbed fit."""
    for mine, other in zip(outcome.values, undisturbed.values, strict=True):
        np.testing.assert_array_equal(mine, other)


def assert_recovered(
    outcome: FitOutcome, expected: Survives, scenario: Scenario
) -> None:
    """Check that the fit says what it has lost, and from where it has resumed."""
    found = outcome.recoveries
    lost = [set(recovery.lost) for recovery in found]
    losses = scenario.losses if expected.loses_workers else [set()]
    assert lost == losses[: len(expected.resumes_from)], found
    assert tuple(each.n_iter for each in found) == expected.resumes_from, found
    assert all(recovery.kind in expected.kinds for recovery in found), found
    assert all(recovery.same_bits for recovery in found)
    assert not any(set(each.workers) & set(each.lost) for each in found)
    says_so = re.search("the fit (recovered from faults|left workers)", outcome.text)
    assert bool(says_so) == bool(found)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("fault", "phase"), CELLS)
def test_a_fault_ends_as_expected_and_in_time(
    clusters: Clusters,
    faults_page: FaultsPage,
    tmp_path: Path,
    data,
    fault: Fault,
    phase: str,
):
    expected = fault.cells[phase]
    assert isinstance(expected, Expected)
    cell = Cell(PHASES_TABLE, fault.name, phase, str(expected), expected.within_s)
    with faults_page.cell(cell):
        check_fault(clusters, cell, tmp_path, data, fault, phase, expected)


def check_fault(
    clusters: Clusters,
    cell: Cell,
    folder: Path,
    data,
    fault: Fault,
    phase: str,
    expected: Expected,
    grid: tuple[int, int] = (3, 1),
    training: Training = ONCE,
    n_spare: int | None = None,
) -> None:
    """Inject a fault into a fit, and assert how it ends and how the next one does.

    `grid` is the number of workers and of replicas of the fit, `n_spare` that of
    workers without a part in it; by default there are three workers.
    """
    n_workers = max(3, grid[0]) if n_spare is None else grid[0] + n_spare
    # Of several clusters, so that workers that one grid does not need do not stand by.
    kind = fault.kind if n_workers == 3 else f"{fault.kind}, {n_workers}"
    rank = min(fault.rank, grid[0] - 1)
    with (
        dask.config.set(SETTINGS | LONG_TIMEOUT | fault.settings),
        clusters.borrowed(kind, n_workers) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        victim = tuple(client.nthreads())[rank]
        scenario = Scenario(
            cluster,
            client,
            data,
            phase,
            rank,
            victim,
            Gate(folder),
            grid=grid,
            training=training,
        )
        undisturbed = None
        if isinstance(expected, Survives):
            undisturbed = clusters.undisturbed(scenario)
        with scenario.started(fault.in_process, fault.held, fault.n_times):
            began = time.monotonic()
            scenario.gate.open(*(fault.action(scenario) or ()))
            outcome = scenario.fit.result(BOUND_S)
            if expected is CLIENT_KILLED:
                scenario.wait_until_free()
            seconds = time.monotonic() - began
            cell.note(outcome, seconds)
            assert_outcome(outcome, expected, scenario)
            if undisturbed is not None:
                assert isinstance(expected, Survives)
                assert_same(outcome, undisturbed)
                assert_recovered(outcome, expected, scenario)
            assert seconds < expected.within_s
            if not fault.ends_cluster:
                if fault.after is not None:
                    fault.after(scenario)
                scenario.clean_up()
                assert_nothing_left(client)
                scenario.wait_until_free()
        if not fault.ends_cluster:
            client.run(gates.uninstall)
            cluster.forget_gone(client.nthreads())
            n_left = len(client.nthreads())
            with dask.config.set(LONG_TIMEOUT):
                following = FitInThread(client, data, n_left)
                assert_right(following.result(BOUND_S), data)
            return
        # Without a scheduler the workers exit, and everything with them, unless a
        # shard keeps one alive.
        cluster.forget_gone([])
        seconds = time.monotonic() - began
        cell.remark = f"workers' processes ended: {seconds:.1f} s"
        assert seconds < WORKERS_END_WITHIN_S
    clusters.end(kind)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_workers_of_a_dead_client_are_free_within_a_minute(tmp_path, faults_page, data):
    """The scheduler notices the closed connection at once."""
    phase, gate = "forward exchange", Gate(tmp_path)
    with (
        ForkedProcesses(tmp_path, {}) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        cluster.have_workers(3)
        victim = next(iter(client.nthreads()))
        scenario = Scenario(cluster, client, data, phase, 0, victim, gate)
        with scenario.started(in_process=True):
            scenario.fit.signal(signal.SIGKILL)
            began = time.monotonic()
            gate.open()
            following = FitInThread(client, data)
            assert_right(following.result(60), data)
            seconds = time.monotonic() - began
    faults_page.lines.append(
        "The next fit on the workers of a client that was killed ended after "
        f"{seconds:.1f} s."
    )
