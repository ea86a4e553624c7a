"""The `futures` engine: what a step costs beyond its work, and when it pays."""

from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial
from statistics import median

import dask
from distributed import Client
from threadpoolctl import threadpool_limits

from skdistmlp.cluster.prediction.by_rows import predict_by_rows
from skdistmlp.crossover.clusters import two_workers
from skdistmlp.crossover.rule import crossover_size
from skdistmlp.crossover.timing import Row, interleaved
from skdistmlp.crossover.workloads import SENDING_ANEW, Workload, fit, step_and_rest
from skdistmlp.engines.futures import ROWS_SENT_AT_ONCE
from skdistmlp.estimators import DistributedMLPClassifier
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
"""Networks whose work is next to nothing: what is left is overhead."""

GROWING = [
    [
        Workload(784, hidden, n_steps=4, n_epochs=2, batch_size=batch_size)
        for batch_size in [250, 500, 1000, 2000, 4000]
    ]
    for hidden in [(4096,), (2048, 2048)]
]
"""Networks whose steps grow, to find where two workers overtake one thread."""

PREDICTED = [
    Workload(784, hidden, n_steps=1, n_epochs=1, batch_size=n_rows)
    for hidden in [(1024, 1024), (2048, 2048), (4096, 4096)]
    for n_rows in [2000, 20000]
]
"""Networks and rows to predict for; every row is sent."""


def overhead(client: Client, repeats: int) -> Iterator[Row]:
    """Time steps that have nothing to do; yield a row a network."""
    for workload in TINY:
        step_s = _step_seconds(workload, client, n_workers=2, repeats=repeats)
        n_tasks = _tasks(workload)
        yield {
            "network": workload.name,
            "chained tasks": n_tasks,
            "overhead, ms/step": 1e3 * step_s,
            "ms/task": 1e3 * step_s / n_tasks,
        }


def against_one_thread(
    client: Client, workloads: Sequence[Workload], repeats: int
) -> Iterator[Row]:
    """Time growing steps on two workers and on one thread; yield a row a size."""
    for workload in workloads:
        two = _step_seconds(workload, client, n_workers=2, repeats=repeats)
        with threadpool_limits(1):
            one = _step_seconds(workload, None, n_workers=None, repeats=repeats)
        work = StepCost.of_step(workload.batch_size)
        yield {
            "network": workload.name,
            "batch": workload.batch_size,
            "GFLOP/step": flop(NetworkSplit.even(workload.layer_units, 2), work) / 1e9,
            "1 shard, 1 thread, ms": 1e3 * one,
            "2 workers, ms": 1e3 * two,
            "times faster": one / two,
        }


def predicting(client: Client, repeats: int) -> Iterator[Row]:
    """Time predictions on two workers, by either split, and on one thread.

    Yields a row a size and split. The work that could have been done in the time
    beyond half of one thread's, per byte sent, is what `FLOP_PER_BYTE_SENT` stands
    for.
    """
    for workload in PREDICTED:
        X, y = workload.data()
        fitted = DistributedMLPClassifier(
            workload.hidden, max_iter=1, engine="local", parameter_threshold=0
        )
        fit(fitted, X[:200], y[:200])
        shared = copy(fitted).set_params(engine="futures", client=client, n_workers=2)
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
            ROWS_SENT_AT_ONCE,
            n_bytes=whole.weights.nbytes,
            owner=None,
        )
        with threadpool_limits(1), dask.config.set(SENDING_ANEW):
            seconds = interleaved(
                {
                    "1 thread": partial(fitted.predict, X),
                    "rows": by_rows,
                    "neurons": partial(shared.predict, X),
                },
                repeats,
            )
        one = median(seconds["1 thread"])
        split = NetworkSplit.even(workload.layer_units, 2)
        work = StepCost.of_prediction(workload.batch_size, itemsize=X.itemsize)
        for how, sent in {
            "rows": bytes_sent_by_rows(split, work, n_workers=2),
            "neurons": bytes_sent_by_neurons(split, work),
        }.items():
            two = median(seconds[how])
            yield {
                "network": workload.name,
                "rows": workload.batch_size,
                "GFLOP": flop(split, work) / 1e9,
                "split by": how,
                "MB sent": sent / 1e6,
                "1 thread, ms": 1e3 * one,
                "2 workers, ms": 1e3 * two,
                "times faster": one / two,
                "FLOP per byte sent": (two - one / 2) * flop(split, work) / one / sent,
            }


def where_two_win(rows: Sequence[Row], n_tasks: int) -> Row:
    """Find the work of a step from which on two workers win; None if they never do.

    The work that sharing between two saves there, per chained task, is what
    `FLOP_PER_CHAINED_TASK` stands for; at most that, if they win at all sizes.
    """
    work = crossover_size(
        [row["GFLOP/step"] for row in rows], [row["times faster"] for row in rows]
    )
    return {
        "network": rows[0]["network"],
        "two workers win from, GFLOP/step": work,
        "saved GFLOP per chained task there": work and work / 2 / n_tasks,
    }


def run(repeats: int) -> dict[str, list[Row]]:
    """Measure everything on two one-thread workers of a local cluster."""
    with two_workers({}) as client:
        results = {"futures overhead": list(overhead(client, repeats))}
        won = []
        for workloads in GROWING:
            rows = list(against_one_thread(client, workloads, repeats))
            results[f"futures {workloads[0].name}"] = rows
            won.append(where_two_win(rows, _tasks(workloads[0])))
        results["futures crossover"] = won
        results["futures predict"] = list(predicting(client, repeats))
    return results


def _tasks(workload: Workload) -> int:
    work = StepCost.of_step(workload.batch_size)
    return chained_tasks(NetworkSplit.even(workload.layer_units, 2), work)


def _step_seconds(
    workload: Workload, client: Client | None, n_workers: int | None, repeats: int
) -> float:
    """Return the median seconds of a step."""
    make = partial(
        DistributedMLPClassifier,
        client=client,
        n_workers=n_workers,
        parameter_threshold=0,
        engine="local" if client is None else "futures",
    )
    return median(step_and_rest(workload, make)[0] for _ in range(repeats))
