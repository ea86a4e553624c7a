"""A network that drops the packets of one worker, and tells nobody."""

import json
import time

import pytest

from benchmarks.network.namespaces import (
    DRIVER,
    Lab,
    LabUnavailableError,
    check_available,
    open_lab,
)
from benchmarks.network.processes import SCHEDULER_PORT, environment
from tests.cluster.faults.partition import N_WORKERS

TIMEOUT_S = 3.0
"""The setting ``skdistmlp.exchange-timeout``."""

LOSS_S = 10.0
"""Seconds that the loss may cost besides."""


@pytest.fixture
def lab():
    try:
        check_available([])
    except LabUnavailableError as error:
        pytest.skip(str(error))
    with open_lab(N_WORKERS) as lab:
        yield lab


def start_cluster(lab: Lab) -> str:
    """Start a scheduler and workers without nannies; return the scheduler's address."""
    address = f"tcp://{lab.address(DRIVER)}:{SCHEDULER_PORT}"
    host = ["--host", lab.address(DRIVER), "--port", str(SCHEDULER_PORT)]
    scheduler = ["-m", "dask", "scheduler", *host, "--no-dashboard"]
    lab.start(DRIVER, scheduler, name="scheduler", environment=environment())
    for worker in lab.workers:
        options = ["--no-nanny", "--no-dashboard", "--nthreads", "1"]
        where = ["--host", lab.address(worker), "--local-directory", str(lab.folder)]
        lab.start(
            worker,
            ["-m", "dask", "worker", address, *options, *where],
            name=worker,
            environment=environment(),
        )
    return address


@pytest.mark.slow
def test_a_fit_goes_on_without_a_worker_that_is_cut_off(lab, record_property):
    """Nothing closes a connection, and the worker never comes back."""
    address = start_cluster(lab)
    driver = lab.start(
        DRIVER,
        ["-m", "tests.cluster.faults.partition", address, str(TIMEOUT_S)],
        name="driver",
        environment=environment(),
        piped=True,
    )
    assert driver.stdout is not None
    trains = driver.stdout.readline().split()
    assert len(trains) == 2, lab.end_of_log("driver")
    victim = trains[1]
    (machine,) = [w for w in lab.workers if f"//{lab.address(w)}:" in victim]
    lab.unplug(machine)
    cut_at = time.time()
    line = driver.stdout.readline()
    assert line, lab.end_of_log("driver")
    outcome = json.loads(line)
    assert outcome["same_bits"]
    assert outcome["lost"] == [[victim]]
    (workers,) = outcome["workers"]
    assert trains[0] in workers
    assert victim not in workers
    # Not from the beginning: there were copies.
    assert outcome["n_iter"][0] > 0
    (resumed_at,) = outcome["resumed_at"]
    record_property("seconds", resumed_at - cut_at)
    assert 0 < resumed_at - cut_at < TIMEOUT_S + LOSS_S
