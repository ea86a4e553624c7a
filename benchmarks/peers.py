"""The `peers` engine against scikit-learn, torch, and itself on one thread."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from distributed import Client
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from benchmarks.limits import Limits, measured_limits
from skdistmlp.crossover.clusters import N_WORKERS, QUIET, two_workers
from skdistmlp.crossover.measurement import growing
from skdistmlp.crossover.rule import crossover_size
from skdistmlp.crossover.timing import Row, median_ratio
from skdistmlp.crossover.workloads import Workload, fit, step_and_rest
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.nn import compiled
from skdistmlp.parallel.split import count_parameters

WORKLOADS = {
    Workload(64, (100,), n_steps=200, n_epochs=25): (1.6, 1.2, 1.5),
    Workload(784, (256,), n_steps=50, n_epochs=20): (1.8, 1.2, 0.9),
    Workload(784, (1024, 1024), n_steps=20, n_epochs=6): (2.1, 1.2, 0.9),
    Workload(784, (4096,), n_steps=20, n_epochs=4): (2.5, 1.2, 0.75),
    Workload(784, (2048, 2048), n_steps=20, n_epochs=3): (2.4, 1.2, 0.75),
    Workload(784, (2048, 2048), n_steps=8, n_epochs=2, batch_size=1000): (
        *(1.15, 1.0, 0.75),
    ),
}
"""Networks, and how many times the speed of scikit-learn, of torch on two processes
and of torch in one is the least wanted."""

LEAST_SCALING = {
    count_parameters((784, 256, 10)): 1.5,
    count_parameters((784, 1024, 1024, 10)): 1.8,
}
"""From how many parameters on, with batches of 200, two shards are to be how many
times as fast as one."""

GROWING = {
    200: [
        Workload(64, (units,), n_steps=200, n_epochs=20)
        for units in [8, 16, 32, 64, 128, 256, 512]
    ],
    2000: [
        Workload(64, (units,), n_steps=40, n_epochs=20, batch_size=2000)
        for units in [2, 4, 8, 16, 32, 64]
    ],
}
"""By batch size, networks that grow, to find where two shards overtake one."""

MOST_PARAMETERS_AT_CROSSING = {200: 20_000, 2000: 2_000}

Taken = Mapping[str, Sequence[float]]
"""By candidate, milliseconds of each repeat."""


def run(repeats: int, torch: bool) -> dict[str, list[Row]]:
    """Measure everything; return tables by their titles."""
    # As it is before a LocalCluster changes it.
    environment = dict(os.environ)
    taken: dict[Workload, dict[str, list[float]]] = {}
    limits: list[Limits] = []
    for workload in WORKLOADS:
        taken[workload] = {}
        for _ in range(repeats):
            for name, ms in _turn(workload, environment, torch, limits):
                taken[workload].setdefault(name, []).append(ms)
    results = {"peers against scikit-learn": list(against_sklearn(taken))}
    if torch:
        results["peers against torch"] = list(against_torch(taken))
    results["peers scaling"] = list(scaling(taken, limits))
    with two_workers() as client:
        _warm_up(client)
        shards = {"1 shard": _on(client, 1), "2 shards": _on(client, 2)}
        series = [
            list(growing(shards, workloads, repeats)) for workloads in GROWING.values()
        ]
    for batch_size, rows in zip(GROWING, series, strict=True):
        results[f"peers growing, batches of {batch_size}"] = rows
    results["peers crossover"] = list(where_two_win(series))
    results["peers chores"] = list(chores(repeats))
    return results


def _turn(
    workload: Workload,
    environment: Mapping[str, str],
    torch: bool,
    limits: list[Limits],
) -> Iterator[tuple[str, float]]:
    """Time every candidate once, each with both cores to itself."""
    with threadpool_limits(N_WORKERS):
        step_s, _ = step_and_rest(workload, MLPClassifier)
        yield "scikit-learn", 1e3 * step_s
    if torch:
        yield from _torch_ms(workload, environment).items()
    with two_workers() as client:
        _warm_up(client)
        limits.append(measured_limits(client))
        for n_shards in (1, 2):
            step_s, rest_s = step_and_rest(workload, _on(client, n_shards))
            yield f"{n_shards} shards", 1e3 * step_s
        yield "rest of the fit", 1e3 * rest_s


def _on(client: Client, n_shards: int) -> Any:
    return partial(
        DistributedMLPClassifier,
        client=client,
        engine="peers",
        n_workers=n_shards,
        parameter_threshold=0,
    )


def _warm_up(client: Client) -> None:
    """Let workers import and compile what they need."""
    client.run(compiled.load)
    tiny = Workload(4, (4, 4), n_steps=2, n_epochs=1)
    fit(_on(client, N_WORKERS)(**tiny.parameters()), *tiny.data())


def _torch_ms(workload: Workload, environment: Mapping[str, str]) -> dict[str, float]:
    """Return the milliseconds of a step with torch, by the way it is run."""
    asked = {
        "layer_units": workload.layer_units,
        "n_steps": workload.n_steps,
        # A process of torch does nothing else: nothing is to be subtracted.
        "n_epochs": max(2, workload.n_epochs // 4),
        "batch_size": workload.batch_size,
        "threads": N_WORKERS,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.torch_mlp"],
        input=json.dumps(asked),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"torch failed:\n{done.stderr}")
    steps_ms: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {f"torch, {way}": ms for way, ms in steps_ms.items()}


def against_sklearn(taken: Mapping[Workload, Taken]) -> Iterator[Row]:
    """Compare two shards with scikit-learn on two threads; yield a row a network."""
    for workload, (wanted, _, _) in WORKLOADS.items():
        ms = taken[workload]
        yield {
            "network": workload.name,
            "batch": workload.batch_size,
            "scikit-learn, ms": median(ms["scikit-learn"]),
            "2 shards, ms": median(ms["2 shards"]),
            "times faster": median_ratio(ms["scikit-learn"], ms["2 shards"]),
            "wanted": wanted,
            "rest of the fit, ms": median(ms["rest of the fit"]),
        }


def against_torch(taken: Mapping[Workload, Taken]) -> Iterator[Row]:
    """Compare two shards with torch; yield a row a network."""
    for workload, (_, wanted_of_two, wanted_of_one) in WORKLOADS.items():
        ms = taken[workload]
        ways = ["data-parallel", "tensor-parallel", "one process"]
        two, other, one = (ms[f"torch, {way}"] for way in ways)
        better = min(two, other, key=median)
        yield {
            "network": workload.name,
            "batch": workload.batch_size,
            "2 shards, ms": median(ms["2 shards"]),
            **{f"{way}, ms": median(ms[f"torch, {way}"]) for way in ways},
            "times faster than two": median_ratio(better, ms["2 shards"]),
            "wanted of two": wanted_of_two,
            "times faster than one": median_ratio(one, ms["2 shards"]),
            "wanted of one": wanted_of_one,
        }


def scaling(taken: Mapping[Workload, Taken], limits: Sequence[Limits]) -> Iterator[Row]:
    """Compare two shards with one, and with what the cores can do."""
    peak = Limits(*(median(column) for column in zip(*limits, strict=True)))
    for workload in WORKLOADS:
        ms = taken[workload]
        n_parameters = count_parameters(workload.layer_units)
        wanted = [t for n, t in LEAST_SCALING.items() if n_parameters >= n]
        two = median(ms["2 shards"])
        limit_ms = 1e3 * peak.step_s(workload) / N_WORKERS
        yield {
            "network": workload.name,
            "batch": workload.batch_size,
            "1 shard, ms": median(ms["1 shards"]),
            "2 shards, ms": two,
            "times faster": median_ratio(ms["1 shards"], ms["2 shards"]),
            "wanted": wanted[-1] if wanted and workload.batch_size == 200 else "",
            "limit, ms": limit_ms,
            "share of the limit": limit_ms / two,
            "GFLOP/s": peak.flop_per_s / 1e9,
            "GB/s": peak.bytes_per_s / 1e9,
        }


def where_two_win(series: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """Find where two shards overtake one; yield a row a size of batch."""
    for rows in series:
        batch_size = rows[0]["batch"]
        sizes = [row["parameters"] for row in rows]
        yield {
            "batch": batch_size,
            "two shards win from, parameters": crossover_size(
                sizes, [row["times faster"] for row in rows]
            ),
            "wanted": MOST_PARAMETERS_AT_CROSSING.get(batch_size, ""),
        }


def chores(repeats: int) -> Iterator[Row]:
    """Time two shards on workers with Dask's own settings, and with quiet ones."""
    for workload in list(WORKLOADS)[1:3]:
        as_it_is: list[float] = []
        quiet: list[float] = []
        for _ in range(repeats):
            for settings, taken in (({}, as_it_is), (QUIET, quiet)):
                with two_workers(settings) as client:
                    _warm_up(client)
                    taken.append(step_and_rest(workload, _on(client, 2))[0])
        yield {
            "network": workload.name,
            "Dask's settings, ms": 1e3 * median(as_it_is),
            "quiet settings, ms": 1e3 * median(quiet),
            "times faster": median_ratio(as_it_is, quiet),
        }
