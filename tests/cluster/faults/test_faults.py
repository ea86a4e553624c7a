"""Every fault in every phase of a fit, on real processes.

Each cell of the table is a test: what the caller gets, within a bound; that nothing
is left; and that the next fit on the same cluster is right.
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
from tests.cluster.faults import gates as striking
from tests.cluster.faults.clusters import (
    LONG_TIMEOUT,
    SETTINGS,
    Clusters,
    FitInThread,
    Scene,
    assert_right,
)
from tests.cluster.faults.gates import PHASES, Gate, Seen
from tests.cluster.faults.page import Cell, FaultsPage
from tests.cluster.faults.table import (
    FAULTS,
    IN_TURNS,
    KEPT,
    KILLED,
    RIGHT,
    Expected,
    Fault,
)
from tests.cluster.forked import ForkedProcesses, start_server
from tests.conftest import assert_nothing_left

BOUND_S = 30.0
"""When a fit counts as hanging; not a measure of speed."""

WORKERS_END_WITHIN_S = 20.0
"""How long workers may outlive their scheduler; not a measure of speed."""

LEAST_TTL_S = 5.0
"""After which Dask gives up a worker that it does not hear of: it takes no less."""

OFTEN = ("between rounds",)
"""Phases that are tried with the other tests; all of them take minutes."""

CELLS = [
    pytest.param(
        fault,
        phase,
        id=f"{fault.name}-{phase}",
        marks=[] if phase in OFTEN else pytest.mark.slow,
    )
    for fault in FAULTS
    for phase in PHASES
    if isinstance(fault.cells[phase], Expected)
]


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    start_server(striking.__name__)


@pytest.fixture(scope="module")
def clusters(tmp_path_factory) -> Iterator[Clusters]:
    with Clusters(lambda: tmp_path_factory.mktemp("dask")) as shared:
        yield shared


@pytest.fixture(scope="module")
def faults_page(request) -> Iterator[FaultsPage]:
    page = FaultsPage()
    yield page
    path = request.config.getoption("--faults-page", None)
    if path is not None:
        impossible = {
            fault.name: {
                p: why for p, why in fault.cells.items() if isinstance(why, str)
            }
            for fault in FAULTS
        }
        page.write(path, PHASES, impossible)


@pytest.fixture(scope="module")
def data(digits):
    X, y = digits
    return X[:300], y[:300]


def assert_is(seen: Seen, expected: Expected, scene: Scene) -> None:
    if expected.error is None:
        assert seen.error is None, seen.text
    else:
        assert issubclass(seen.error or int, expected.error), seen
    names = {
        "worker": re.escape(scene.victim),
        "scheduler": re.escape(scene.cluster.address),
        "rank": scene.rank,
    }
    for pattern in expected.says:
        assert re.search(pattern.format(**names), seen.text), seen.text
    if seen.error in (ExchangeError, WorkerLostError):
        # Whatever else it says: when it was, and what to do.
        assert re.search(r"while \w+ing\b", seen.text), seen.text
        assert re.search(r"[Cc]all again", seen.text), seen.text
    if expected in (RIGHT, IN_TURNS):
        assert_right(seen, scene.data)
    if expected is KEPT:
        assert all(np.isfinite(coef).all() for coef in seen.coefs)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("fault", "phase"), CELLS)
def test_a_fault_has_a_definite_end(
    clusters: Clusters,
    faults_page: FaultsPage,
    tmp_path: Path,
    data,
    fault: Fault,
    phase: str,
):
    expected = fault.cells[phase]
    assert isinstance(expected, Expected)
    cell = Cell(fault.name, phase, str(expected), expected.within_s)
    with (
        faults_page.cell(cell),
        dask.config.set(SETTINGS | LONG_TIMEOUT | fault.settings),
        clusters.lent(fault.kind) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        worker_ttl_s = LEAST_TTL_S if phase in fault.given_up_in else 300.0
        client.run_on_scheduler(striking.set_worker_ttl, worker_ttl_s)
        victim = tuple(client.nthreads())[fault.rank]
        scene = Scene(cluster, client, data, phase, fault.rank, victim, Gate(tmp_path))
        with scene.staged(fault.in_process, fault.held, fault.n_times):
            began = time.monotonic()
            scene.gate.open(*(fault.strike(scene) or ()))
            seen = scene.fit.result(BOUND_S)
            if expected is KILLED:
                scene.await_freedom()
            seconds = time.monotonic() - began
            cell.note(seen, seconds)
            assert_is(seen, expected, scene)
            assert seconds < expected.within_s
            if not fault.ends_cluster:
                if fault.after is not None:
                    fault.after(scene)
                scene.tidy_up()
                assert_nothing_left(client)
                scene.await_freedom()
        if not fault.ends_cluster:
            client.run(striking.uninstall)
            cluster.forget_gone(client.nthreads())
            n_workers = len(client.nthreads())
            with dask.config.set(LONG_TIMEOUT):
                following = FitInThread(client, data, n_workers)
                assert_right(following.result(BOUND_S), data)
            return
        # Workers have nobody to work for: with their processes everything is gone,
        # unless a shard keeps one from ending.
        cluster.forget_gone([])
        seconds = time.monotonic() - began
        cell.remark = f"workers' processes ended: {seconds:.1f} s"
        assert seconds < WORKERS_END_WITHIN_S
    clusters.end(fault.kind)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_workers_of_a_dead_client_are_free_within_a_minute(tmp_path, faults_page, data):
    """The scheduler knows at once that its connection is closed."""
    phase, gate = "forward exchange", Gate(tmp_path)
    with (
        ForkedProcesses(tmp_path, {}) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        cluster.have_workers(3)
        victim = next(iter(client.nthreads()))
        scene = Scene(cluster, client, data, phase, 0, victim, gate)
        with scene.staged(in_process=True):
            scene.fit.signal(signal.SIGKILL)
            began = time.monotonic()
            gate.open()
            following = FitInThread(client, data)
            assert_right(following.result(60), data)
            seconds = time.monotonic() - began
    faults_page.lines.append(
        "The next fit on the workers of a client that was killed ended after "
        f"{seconds:.1f} s."
    )
