"""The lab's driver: fits what it is told to; a program in the driver's namespace.

``python -m benchmarks.network.driver ADDRESS N_WORKERS`` connects to a scheduler, and
answers each line on stdin, a JSON object, with one on stdout.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client

from benchmarks.network.plans import PLANS
from benchmarks.network.probe import probe
from skdistmlp.cluster.peers.measured import forget_machines
from skdistmlp.crossover.timing import time_fit
from skdistmlp.crossover.workloads import Workload
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.estimators.uninterrupted import fit_uninterrupted
from skdistmlp.nn import compiled

CONNECT_S = 300
"""For scheduler and workers to start: on a busy machine, four processes need a minute
and more to import what they need. The lab notices at once if one of them ends."""


LONG_EPOCHS = 1000
"""Of the fits whose plan is forecast: fixed costs do not count in them."""


def main() -> None:
    """Answer until stdin ends."""
    address, n_workers = sys.argv[1], int(sys.argv[2])
    with Client(address, timeout=CONNECT_S, set_as_default=False) as client:
        client.wait_for_workers(n_workers, timeout=CONNECT_S)
        for line in sys.stdin:
            try:
                answer = _answer(json.loads(line), client, n_workers)
            except Exception:
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer), flush=True)


def _answer(request: dict[str, Any], client: Client, n_workers: int) -> dict[str, Any]:
    if "warm up" in request:
        _warm_up(request["warm up"], client, n_workers)
        return {}
    if "probe" in request:
        return probe(client)._asdict()
    workload = request["workload"]
    workload["hidden"] = tuple(workload["hidden"])
    if request.get("forecast"):
        return _forecast(Workload(**workload), client)
    return _time(Workload(**workload), request["plan"], client, n_workers)


def _warm_up(plans: list[str], client: Client, n_workers: int) -> None:
    """Let all processes import and compile what they need."""
    compiled.load(compiled.adam)
    client.run(compiled.load, compiled.adam)
    units = 2 * n_workers
    tiny = Workload(4, (units,), n_steps=2, n_epochs=1, batch_size=5 * units)
    for plan in plans:
        fit_uninterrupted(
            _estimator(plan, client, n_workers, **tiny.parameters()), *tiny.data()
        )


def _time(
    workload: Workload, plan: str, client: Client, n_workers: int
) -> dict[str, Any]:
    with _on_one_core():
        step_s, fixed_s = time_fit(
            workload,
            lambda **parameters: _estimator(plan, client, n_workers, **parameters),
        )
    return {"step_ms": 1e3 * step_s, "fixed_ms": 1e3 * fixed_s}


def _forecast(workload: Workload, client: Client) -> dict[str, Any]:
    """Return what a long fit is expected to take on each plan, and which is chosen."""
    # The link may have changed.
    forget_machines()
    parameters = workload.parameters(n_epochs=LONG_EPOCHS)
    estimator = DistributedMLPClassifier(
        **parameters, client=client, parameter_threshold=1
    )
    begun = time.perf_counter()
    with _on_one_core():
        forecast = estimator.plan_fit(*workload.data()).forecast
    measuring_s = time.perf_counter() - begun
    assert forecast is not None
    return {
        "rows": [row._asdict() for row in forecast.rows],
        "measuring_s": measuring_s,
    }


def _estimator(
    plan: str, client: Client, n_workers: int, **parameters: Any
) -> DistributedMLPClassifier:
    parameters |= PLANS[plan](n_workers)
    if parameters["engine"] != "local":
        parameters["client"] = client
    return DistributedMLPClassifier(**parameters)


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Keep this thread, which may train alone, on the core of the first worker."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
