"""What a fit would take on machines that are there, or on others."""

import math
import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dask.utils import parse_bytes, parse_timedelta

from skdistmlp.cluster._dask import memory_limit_of_process
from skdistmlp.cluster.client.workers import choose_workers, usable_fraction
from skdistmlp.cluster.peers.measured import MeasurementError
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.workloads import Workload
from skdistmlp.engines.auto import FitOutline, fastest_plan
from skdistmlp.engines.engine import EngineRequest
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.estimators.planning import outline_of_fit
from skdistmlp.exceptions import ClusterError
from skdistmlp.planning.calibration import Timings, machines_of
from skdistmlp.planning.candidates import forecast_of
from skdistmlp.planning.forecast import Forecast, best_per_number
from skdistmlp.planning.machines import Link
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.offer import Offer
from skdistmlp.planning.rates import REFERENCE
from skdistmlp.settings import rows_memory_share

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
"""Of a bandwidth, by their first letter in lower case."""


def parse_bandwidth(text: str) -> float:
    """Return bits per second from a text such as "10Gbit" or "100 Mbit/s".

    In upper or lower case, as Dask reads sizes, but for the "B" of bytes.

    Raises
    ------
    ValueError
        If it is something else.
    """
    pattern = r"\s*([0-9.]+)\s*([kmgt]?)(?:bit(?:/s)?|bps)?\s*"
    match = re.fullmatch(pattern, text.lower())
    try:
        assert match is not None
        assert re.search("B(?!it|IT)", text) is None
        bits_per_s = float(match[1]) * UNITS[match[2]]
        assert 0 < bits_per_s < math.inf
    except (AssertionError, ValueError):
        raise ValueError(
            f"the bandwidth is {text!r}, expected bits per second, such as 10Gbit or "
            f"100Mbit"
        ) from None
    return bits_per_s


def parse_memory(text: str) -> int:
    """Return bytes from a text such as "16GiB", as Dask reads sizes.

    Raises
    ------
    ValueError
        If it is something else.
    """
    n_bytes = 0
    # Dask takes "GB" for 1 GB, and an empty text for 1 byte.
    if any(map(str.isdigit, text)):
        with suppress(OverflowError, ValueError):
            n_bytes = int(parse_bytes(text))
    if n_bytes <= 0:
        raise ValueError(
            f"the memory is {text!r}, expected a size, such as 16GiB or 500MB"
        )
    return n_bytes


def parse_latency(text: str) -> float:
    """Return seconds from a text such as "0.2ms", as Dask reads times.

    Raises
    ------
    ValueError
        If it is something else.
    """
    seconds = math.nan
    # Dask takes a number without a unit for seconds: 0.2 would be a link to the moon.
    if text.strip()[-1:].isalpha():
        with suppress(KeyError, OverflowError, ValueError):
            seconds = float(parse_timedelta(text))
    if not 0 <= seconds < math.inf:
        raise ValueError(
            f"the latency is {text!r}, expected a time with its unit, such as 0.2ms"
        )
    return seconds


NO_ROOM = (
    "neither this process nor the workers have room for this network and its rows: "
    "nothing can be said of them. Use fewer rows, a smaller network or workers with "
    "more memory."
)
"""What to say if there is no plan."""


def forecast_on(
    client: Any, workload: Workload, n_epochs: int, n_workers: int | None = None
) -> Forecast:
    """Return what a fit would take on a cluster whose workers are measured.

    Parameters
    ----------
    client : Client
        A connected client.
    workload : Workload
        The network, and the number of rows.
    n_epochs : int
        Epochs of the fit.
    n_workers : int, optional
        How many of its workers may take part; by default all.

    Raises
    ------
    ClusterError
        If the workers cannot be measured.
    """
    outline = _outline(workload, n_epochs)
    request = EngineRequest(client, None, "auto", "auto", only_plans=True)
    workers = choose_workers(client, n_workers)
    try:
        plan = fastest_plan(request, outline, workers, client)
    except MeasurementError as error:
        raise ClusterError(
            f"the workers could not be measured, so that nothing can be said of them: "
            f"{error}. Try again when they are free and can reach each other, or pass "
            f"--workers and --bandwidth to have them computed."
        ) from error
    if plan is None:
        raise ClusterError(NO_ROOM)
    if plan.forecast is None:
        raise ClusterError(f"{plan.reason}: nothing can be said of them")
    return plan.forecast


def expected_speedup(client: Any, n_workers: int, workload: Workload) -> float | None:
    """Return how much faster shards are expected to be than this process.

    None if that cannot be said: the cluster is busy or slow, or there are more workers
    than neurons or too little memory for this plan.

    Parameters
    ----------
    client : Client
        A connected client.
    n_workers : int
        Number of workers, each with a shard.
    workload : Workload
        The network.
    """
    try:
        forecast = forecast_on(client, workload, workload.n_epochs, n_workers)
    except ClusterError:
        # The fits that are timed will say what is wrong, if they meet it too.
        return None
    rows = {(row.engine, row.n_workers, row.n_replicas): row for row in forecast.rows}
    here, shared = rows.get(("local", 0, 1)), rows.get(("peers", n_workers, 1))
    if here is None or shared is None:
        return None
    return here.step_s / shared.step_s


def forecast_for(
    workload: Workload,
    n_epochs: int,
    n_workers: int,
    bits_per_s: float,
    memory_bytes: int | None = None,
    latency_s: float | None = None,
) -> Forecast:
    """Return what a fit would take on workers like this process.

    Parameters
    ----------
    workload : Workload
        The network, and the number of rows.
    n_epochs : int
        Epochs of the fit.
    n_workers : int
        Number of workers.
    bits_per_s : float
        Rate of the link of each, in each direction.
    memory_bytes : int, optional
        Memory of each, and of a process that trains alone; by default without limit.
    latency_s : float, optional
        Seconds of an empty exchange; by default, as between processes of one machine.

    Raises
    ------
    ClusterError
        If that is too little for every plan.
    """
    outline = _outline(workload, n_epochs)
    units, cost = outline.layer_units, outline.cost
    grids = outline.grids_timed(n_workers)
    each_s = tuple(seconds.own for seconds in outline.trial.steps_seconds(grids))
    n_rows = tuple(outline.trial.n_rows_timed(grids))
    units_timed = outline.trial.network.layer_units
    measured = Timings(
        units_timed, tuple(grids), each_s[0], (each_s,) * n_workers, (), (), n_rows
    )
    machines = machines_of(measured, cost)
    link = Link.of_rate(bits_per_s, REFERENCE, latency_s)
    machines = replace(machines, links=(link,) * n_workers)
    workers = tuple(f"worker {number}" for number in range(n_workers))
    memory = {}
    if memory_bytes is not None:
        usable = usable_fraction(has_nanny=True)
        memory = dict.fromkeys(workers, WorkerMemory(memory_bytes, usable))
    offer = Offer(
        units,
        cost,
        outline.length,
        workers,
        machines,
        memory,
        rows_memory_share(),
        memory_bytes,
        cluster_engines=("peers", "futures"),
    )
    candidates = offer.candidates()
    if not candidates:
        raise ClusterError(NO_ROOM)
    return forecast_of(candidates, offer)


def note_of_memory(forecast: Forecast) -> str | None:
    """Say what the best plan holds per process; None if this machine has as much."""
    held, here = forecast.rows[0].bytes_held, memory_limit_of_process()
    if held <= here:
        return None
    return (
        f"note: a process of this plan holds up to {held / 1e9:,.3g} GB, and this "
        f"machine has {here / 1e9:,.3g} GB. With --memory, only plans with room count."
    )


def table_of(forecast: Forecast) -> list[Row]:
    """Return a row for each number of workers: its fastest plan, and what it takes."""
    rows = best_per_number(forecast.rows)
    alone = next((row for row in rows if row.n_workers == 0), None)
    return [
        {
            "workers": row.n_workers,
            "engine": row.engine,
            "replicas x shards": _grid(row.n_workers, row.n_replicas),
            "ms per step": 1e3 * row.step_s,
            "s per epoch": row.epoch_s,
            "s per fit": row.fit_s,
            "s besides steps": row.fixed_s,
            "speed-up": None if alone is None else alone.fit_s / row.fit_s,
            "MB per process": row.bytes_held / 1e6,
            "MB on disk": row.bytes_on_disk / 1e6,
            "kB per step": row.bytes_exchanged / 1e3,
            "messages per step": row.messages_sent,
        }
        for row in rows
    ]


def _grid(n_workers: int, n_replicas: int) -> str:
    return f"{n_replicas} x {n_workers // n_replicas}" if n_workers else "-"


def _outline(workload: Workload, n_epochs: int) -> FitOutline:
    """Return the outline of a fit, of whose rows this process makes up a few only."""
    few = replace(workload, n_steps=1)
    outline = outline_of_fit(_estimator(few, n_epochs), *few.data())
    return outline.with_more_rows(workload.n_steps)


def _estimator(
    workload: Workload, n_epochs: int, **parameters: Any
) -> DistributedMLPClassifier:
    return DistributedMLPClassifier(**workload.parameters(n_epochs), **parameters)
