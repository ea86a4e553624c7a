"""The `peers` engine against scikit-learn, torch, and itself on one thread."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from distributed import Client
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from benchmarks.peak import PeakRates, measure_peak_rates
from benchmarks.timing import with_progress
from skdistmlp.crossover.local_workers import QUIET_WORKERS, single_threaded_workers
from skdistmlp.crossover.measurement import Measurement, measure_growing_networks
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.rule import crossover_size
from skdistmlp.crossover.timing import (
    EstimatorFactory,
    median_ratio,
    time_fit,
)
from skdistmlp.crossover.workloads import Workload
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.estimators.uninterrupted import fit_uninterrupted
from skdistmlp.nn import compiled
from skdistmlp.parallel.split import count_parameters

N_WORKERS = 2
"""Single-threaded workers, and threads or processes of the other candidates."""


class Targets(NamedTuple):
    """Speed-ups that two shards are to reach, over each competitor.

    Attributes
    ----------
    sklearn : float
        Over scikit-learn on two threads.
    torch_two : float
        Over torch in two processes.
    torch_one : float
        Over torch in one process with two threads.
    """

    sklearn: float
    torch_two: float
    torch_one: float


WORKLOADS = {
    Workload(64, (100,), n_steps=200, n_epochs=25): Targets(1.6, 1.2, 1.5),
    Workload(784, (256,), n_steps=50, n_epochs=20): Targets(1.8, 1.2, 0.9),
    Workload(784, (1024, 1024), n_steps=20, n_epochs=6): Targets(2.1, 1.2, 0.9),
    Workload(784, (4096,), n_steps=20, n_epochs=4): Targets(2.5, 1.2, 0.75),
    Workload(784, (2048, 2048), n_steps=20, n_epochs=3): Targets(2.4, 1.2, 0.75),
    Workload(784, (2048, 2048), n_steps=8, n_epochs=2, batch_size=1000): Targets(
        1.15, 1.0, 0.75
    ),
}

SCALING_TARGETS = {
    count_parameters((784, 256, 10)): 1.5,
    count_parameters((784, 1024, 1024, 10)): 1.8,
}
"""Speed-ups that two shards are to reach over one, from a number of parameters on,
with batches of 200."""

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
"""Networks of growing size, by batch size, to find where two shards overtake one."""

CROSSOVER_TARGETS = {200: 20_000, 2000: 2_000}
"""Numbers of parameters at which two shards are to overtake one, by batch size."""

StepTimes = Mapping[str, Sequence[float]]
"""Milliseconds per step of each repeat, by candidate."""


def run(repeats: int, torch: bool) -> dict[str, list[Row]]:
    """Measure everything; return tables by title."""
    # Torch gets the environment of this process before a LocalCluster changes it.
    environment = dict(os.environ)
    times: dict[Workload, dict[str, list[float]]] = {}
    peaks: list[PeakRates] = []
    for workload in with_progress("peers", WORKLOADS, _name):
        times[workload] = {}
        for _ in range(repeats):
            for name, ms in _time_candidates(workload, environment, torch, peaks):
                times[workload].setdefault(name, []).append(ms)
    results = {"peers against scikit-learn": list(compare_with_sklearn(times))}
    if torch:
        results["peers against torch"] = list(compare_with_torch(times))
    results["peers scaling"] = list(compare_with_peak(times, peaks))
    with single_threaded_workers(N_WORKERS) as client:
        _warm_up(client)
        series = [
            list(
                measure_growing_networks(
                    _on_workers(client, 1),
                    _on_workers(client, 2),
                    with_progress("peers growing", workloads, _name),
                    repeats,
                )
            )
            for workloads in GROWING.values()
        ]
    for batch_size, measurements in zip(GROWING, series, strict=True):
        results[f"peers growing, batches of {batch_size}"] = [
            asdict(measured) for measured in measurements
        ]
    results["peers crossover"] = [find_crossover(each) for each in series]
    results["peers worker settings"] = list(compare_worker_settings(repeats))
    return results


def _time_candidates(
    workload: Workload,
    environment: Mapping[str, str],
    torch: bool,
    peaks: list[PeakRates],
) -> Iterator[tuple[str, float]]:
    """Time every candidate once, each with both cores to itself."""
    with threadpool_limits(N_WORKERS):
        step_s, _ = time_fit(workload, MLPClassifier)
        yield "scikit-learn", 1e3 * step_s
    if torch:
        yield from _torch_ms(workload, environment).items()
    with single_threaded_workers(N_WORKERS) as client:
        _warm_up(client)
        peaks.append(measure_peak_rates(client))
        for n_shards in (1, 2):
            step_s, fixed_s = time_fit(workload, _on_workers(client, n_shards))
            yield f"{n_shards} shards", 1e3 * step_s
        yield "fixed per fit", 1e3 * fixed_s


def _name(workload: Workload) -> str:
    return f"{workload.name}, batches of {workload.batch_size:,}"


def _on_workers(client: Client, n_shards: int) -> EstimatorFactory:
    return partial(
        DistributedMLPClassifier,
        client=client,
        engine="peers",
        n_workers=n_shards,
    )


def _warm_up(client: Client) -> None:
    """Let workers import and compile what they need."""
    client.run(compiled.load, compiled.adam)
    tiny = Workload(4, (4, 4), n_steps=2, n_epochs=1)
    estimator = _on_workers(client, N_WORKERS)(**tiny.parameters())
    fit_uninterrupted(estimator, *tiny.data())


def _torch_ms(workload: Workload, environment: Mapping[str, str]) -> dict[str, float]:
    """Return the milliseconds per step with torch, by the way it is run."""
    parameters: dict[str, Any] = {
        "layer_units": workload.layer_units,
        "n_steps": workload.n_steps,
        # A torch process only trains, so no fixed cost has to be subtracted and fewer
        # epochs suffice.
        "n_epochs": max(2, workload.n_epochs // 4),
        "batch_size": workload.batch_size,
        "threads": N_WORKERS,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.torch_mlp"],
        input=json.dumps(parameters),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"torch failed:\n{done.stderr}")
    steps_ms: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {f"torch, {way}": ms for way, ms in steps_ms.items()}


def compare_with_sklearn(times: Mapping[Workload, StepTimes]) -> Iterator[Row]:
    """Compare two shards with scikit-learn on two threads; yield a row per network."""
    for workload, targets in WORKLOADS.items():
        ms = times[workload]
        yield {
            "network": workload.name,
            "batch_size": workload.batch_size,
            "scikit-learn, ms": median(ms["scikit-learn"]),
            "2 shards, ms": median(ms["2 shards"]),
            "speedup": median_ratio(ms["scikit-learn"], ms["2 shards"]),
            "target": targets.sklearn,
            "fixed per fit, ms": median(ms["fixed per fit"]),
        }


def compare_with_torch(times: Mapping[Workload, StepTimes]) -> Iterator[Row]:
    """Compare two shards with torch; yield a row per network."""
    for workload, targets in WORKLOADS.items():
        ms = times[workload]
        ways = ["data-parallel", "tensor-parallel", "one process"]
        data_parallel, tensor_parallel, one = (ms[f"torch, {way}"] for way in ways)
        faster = min(data_parallel, tensor_parallel, key=median)
        yield {
            "network": workload.name,
            "batch_size": workload.batch_size,
            "2 shards, ms": median(ms["2 shards"]),
            **{f"{way}, ms": median(ms[f"torch, {way}"]) for way in ways},
            "speedup over DDP or tensor-parallel": median_ratio(faster, ms["2 shards"]),
            "target of two processes": targets.torch_two,
            "speedup over one process": median_ratio(one, ms["2 shards"]),
            "target of one process": targets.torch_one,
        }


def compare_with_peak(
    times: Mapping[Workload, StepTimes], peaks: Sequence[PeakRates]
) -> Iterator[Row]:
    """Compare two shards with one, and with what the cores can do at best."""
    peak = PeakRates(*(median(column) for column in zip(*peaks, strict=True)))
    for workload in WORKLOADS:
        ms = times[workload]
        n_parameters = count_parameters(workload.layer_units)
        targets = [t for n, t in SCALING_TARGETS.items() if n_parameters >= n]
        two_ms = median(ms["2 shards"])
        min_ms = 1e3 * peak.min_step_s(workload) / N_WORKERS
        yield {
            "network": workload.name,
            "batch_size": workload.batch_size,
            "1 shard, ms": median(ms["1 shards"]),
            "2 shards, ms": two_ms,
            "speedup": median_ratio(ms["1 shards"], ms["2 shards"]),
            "target": targets[-1] if targets and workload.batch_size == 200 else "",
            "limit, ms": min_ms,
            "share of the limit": min_ms / two_ms,
            "GFLOP/s": peak.flop_per_s / 1e9,
            "GB/s": peak.bytes_per_s / 1e9,
        }


def find_crossover(measurements: Sequence[Measurement]) -> Row:
    """Find where two shards overtake one, for one batch size."""
    batch_size = measurements[0].batch_size
    return {
        "batch_size": batch_size,
        "crossover, parameters": crossover_size(
            [measured.n_parameters for measured in measurements],
            [measured.speedup for measured in measurements],
        ),
        "target": CROSSOVER_TARGETS.get(batch_size, ""),
    }


def compare_worker_settings(repeats: int) -> Iterator[Row]:
    """Time two shards on workers with Dask's default settings, and with quiet ones."""
    chosen = list(WORKLOADS)[1:3]
    for workload in with_progress("peers worker settings", chosen, _name):
        default_s: list[float] = []
        quiet_s: list[float] = []
        for _ in range(repeats):
            for settings, steps_s in (({}, default_s), (QUIET_WORKERS, quiet_s)):
                with single_threaded_workers(N_WORKERS, settings) as client:
                    _warm_up(client)
                    step_s, _ = time_fit(workload, _on_workers(client, 2))
                    steps_s.append(step_s)
        yield {
            "network": workload.name,
            "default settings, ms": 1e3 * median(default_s),
            "quiet settings, ms": 1e3 * median(quiet_s),
            "speedup": median_ratio(default_s, quiet_s),
        }
