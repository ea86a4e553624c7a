"""The `futures` engine: its overhead per step, and from where on it pays."""

from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial
from statistics import median

import dask
from distributed import Client
from threadpoolctl import threadpool_limits

from benchmarks.timing import time_in_turns, with_progress
from skdistmlp.cluster.prediction.by_rows import predict_by_rows
from skdistmlp.crossover.local_workers import single_threaded_workers
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.rule import crossover_size
from skdistmlp.crossover.timing import WITHOUT_CACHE, time_fit
from skdistmlp.crossover.workloads import Workload
from skdistmlp.engines.futures import rows_per_block
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.estimators.uninterrupted import fit_uninterrupted
from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.parallel.split import NetworkSplit, Parameters
from skdistmlp.parallel.whole_network import WholeNetwork
from skdistmlp.planning.cost import (
    StepCost,
    bytes_sent_by_neurons,
    bytes_sent_by_rows,
    chained_tasks,
    flop,
)

TINY = [
    Workload(64, hidden, n_steps=20, n_epochs=2)
    for hidden in [(64,), (64, 64), (64, 64, 64)]
]
"""Networks with next to no work, whose steps are all overhead."""

GROWING = [
    [
        Workload(784, hidden, n_steps=4, n_epochs=2, batch_size=batch_size)
        for batch_size in [250, 500, 1000, 2000, 4000]
    ]
    for hidden in [(4096,), (2048, 2048)]
]
"""Networks with growing steps, to find where two workers overtake one thread."""

PREDICTIONS = [
    Workload(784, hidden, n_steps=1, n_epochs=1, batch_size=n_rows)
    for hidden in [(1024, 1024), (2048, 2048), (4096, 4096)]
    for n_rows in [2000, 20000]
]
"""Networks, and numbers of rows to send and predict."""


def measure_overhead(client: Client, repeats: int) -> Iterator[Row]:
    """Time steps with next to no work; yield one row per network."""
    for workload in with_progress("futures overhead", TINY, _name):
        step_s = _step_seconds(workload, client, n_workers=2, repeats=repeats)
        n_tasks = _n_chained_tasks(workload)
        yield {
            "network": workload.name,
            "chained tasks": n_tasks,
            "overhead, ms/step": 1e3 * step_s,
            "ms/task": 1e3 * step_s / n_tasks,
        }


def compare_with_one_thread(
    client: Client, workloads: Sequence[Workload], repeats: int
) -> Iterator[Row]:
    """Time growing steps on two workers and on one thread; yield one row per size."""
    for workload in with_progress("futures", workloads, _name):
        two_s = _step_seconds(workload, client, n_workers=2, repeats=repeats)
        with threadpool_limits(1):
            one_s = _step_seconds(workload, None, n_workers=None, repeats=repeats)
        work = StepCost.of_step(workload.batch_size)
        yield {
            "network": workload.name,
            "batch_size": workload.batch_size,
            "GFLOP/step": flop(NetworkSplit.even(workload.layer_units, 2), work) / 1e9,
            "1 thread, ms": 1e3 * one_s,
            "2 workers, ms": 1e3 * two_s,
            "speedup": one_s / two_s,
        }


def compare_predictions(client: Client, repeats: int) -> Iterator[Row]:
    """Time predictions on two workers, by either split, and on one thread.

    Yields one row per size and split. Ideally two workers take half the time of one
    thread. What they take beyond that, per byte sent, is the measurement behind
    `DASK_BYTE_S`; it includes their tasks.
    """
    for workload in with_progress("futures predict", PREDICTIONS, _name):
        X, y = workload.data()
        fitted = DistributedMLPClassifier(workload.hidden, max_iter=1, engine="local")
        fit_uninterrupted(fitted, X[:200], y[:200])
        by_neurons = copy(fitted).set_params(
            engine="futures", client=client, n_workers=2
        )
        whole = WholeNetwork(
            Network(dense_layers(workload.layer_units, "relu"), "softmax"),
            Parameters(fitted.coefs_, fitted.intercepts_),
        )
        workers = tuple(client.nthreads())[:2]
        by_rows = partial(
            predict_by_rows,
            client,
            workers,
            whole,
            X,
            rows_per_block(len(X), len(workers)),
            n_bytes=whole.parameters.nbytes,
            owner=None,
        )
        with threadpool_limits(1), dask.config.set(WITHOUT_CACHE):
            seconds = time_in_turns(
                {
                    "1 thread": partial(fitted.predict, X),
                    "rows": by_rows,
                    "neurons": partial(by_neurons.predict, X),
                },
                repeats,
            )
        one_s = median(seconds["1 thread"])
        split = NetworkSplit.even(workload.layer_units, 2)
        work = StepCost.of_prediction(workload.batch_size, itemsize=X.itemsize)
        n_flop = flop(split, work)
        for split_by, n_bytes in {
            "rows": bytes_sent_by_rows(split, work, n_workers=2),
            "neurons": bytes_sent_by_neurons(split, work),
        }.items():
            two_s = median(seconds[split_by])
            yield {
                "network": workload.name,
                "rows": workload.batch_size,
                "GFLOP": n_flop / 1e9,
                "split by": split_by,
                "MB sent": n_bytes / 1e6,
                "1 thread, ms": 1e3 * one_s,
                "2 workers, ms": 1e3 * two_s,
                "speedup": one_s / two_s,
                "ns per byte sent": 1e9 * (two_s - one_s / 2) / n_bytes,
            }


def find_crossover(rows: Sequence[Row], n_tasks: int) -> Row:
    """Find the work per step at which two workers overtake one thread.

    And the work that they save there, per chained task: an upper bound if they are
    faster at all sizes. Both are None if they never are.
    """
    gflop = crossover_size(
        [row["GFLOP/step"] for row in rows], [row["speedup"] for row in rows]
    )
    return {
        "network": rows[0]["network"],
        "crossover, GFLOP/step": gflop,
        "saved GFLOP per chained task": gflop and gflop / 2 / n_tasks,
    }


def run(repeats: int) -> dict[str, list[Row]]:
    """Measure everything on two single-threaded workers; return tables by title."""
    with single_threaded_workers(2, settings={}) as client:
        results = {"futures overhead": list(measure_overhead(client, repeats))}
        crossovers = []
        for workloads in GROWING:
            rows = list(compare_with_one_thread(client, workloads, repeats))
            results[f"futures {workloads[0].name}"] = rows
            crossovers.append(find_crossover(rows, _n_chained_tasks(workloads[0])))
        results["futures crossover"] = crossovers
        results["futures predict"] = list(compare_predictions(client, repeats))
    return results


def _name(workload: Workload) -> str:
    return f"{workload.name}, batches of {workload.batch_size:,}"


def _n_chained_tasks(workload: Workload) -> int:
    work = StepCost.of_step(workload.batch_size)
    return chained_tasks(NetworkSplit.even(workload.layer_units, 2), work)


def _step_seconds(
    workload: Workload, client: Client | None, n_workers: int | None, repeats: int
) -> float:
    """Return the median seconds per step."""
    make_estimator = partial(
        DistributedMLPClassifier,
        client=client,
        n_workers=n_workers,
        engine="local" if client is None else "futures",
    )
    return median(time_fit(workload, make_estimator).step_s for _ in range(repeats))
