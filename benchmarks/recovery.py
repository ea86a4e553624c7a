"""What it costs that a fit can recover, and how long it takes to.

Pairs of fits, of which one copies its state and the other would not recover, show what
that costs while nothing happens. Fits of which a worker is killed show the rest.
"""

import argparse
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import dask
import numpy as np
import psutil
from distributed import Client

from benchmarks.timing import with_progress
from skdistmlp.cluster.peers import worker
from skdistmlp.cluster.peers.copies import StateCopies
from skdistmlp.cluster.peers.round_start import RoundStart
from skdistmlp.crossover.local_workers import single_threaded_workers
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.timing import median_ratio
from skdistmlp.crossover.workloads import Workload
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.estimators.uninterrupted import fit_uninterrupted
from skdistmlp.nn import compiled

PAIRED = Workload(784, (1024, 1024), n_steps=100, n_epochs=8)
"""About 18 s on two workers, in which there are two or three copies."""

KILLED = Workload(784, (2048, 2048), n_steps=30, n_epochs=20)
"""About 40 s on two workers, with the first copy after 25 s."""

N_WORKERS = 2

MAX_RATIO, MAX_RECOVERY_S = 1.03, 10.0
"""Targets: seconds with copies over those without, and seconds of a recovery."""

FIRST_KILL, LAST_KILL = 0.2, 0.8
"""Shares of the time of an undisturbed fit between which workers are killed."""

# A busy machine may start a process so slowly that the cluster gives the worker up.
PATIENT = {"distributed.deploy.lost-worker-timeout": "60s"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only the recovery benchmark has."""
    group = parser.add_argument_group(
        "recovery",
        "The recovery benchmark runs only if it is named. A pair of fits takes about "
        "40 s, a fit with a kill about a minute.",
    )
    group.add_argument(
        "--pairs",
        type=int,
        default=15,
        help="pairs of fits with and without copies (default: %(default)s)",
    )
    group.add_argument(
        "--kills",
        type=int,
        default=20,
        help="fits of which a worker is killed (default: %(default)s)",
    )


def check_options(arguments: argparse.Namespace) -> None:
    """Raise unless the options make sense.

    Raises
    ------
    ValueError
        Says which does not.
    """
    for name in ("pairs", "kills"):
        if (number := getattr(arguments, name)) < 0:
            raise ValueError(f"--{name} is {number}, and must be at least 0")
    if arguments.pairs == arguments.kills == 0:
        raise ValueError("--pairs and --kills are both 0: nothing would be measured")


def run(arguments: argparse.Namespace) -> dict[str, list[Row]]:
    """Measure; return tables by title."""
    results: dict[str, list[Row]] = {}
    if arguments.pairs:
        results["recovery: cost of copies"] = [measure_copies(arguments.pairs)]
    if arguments.kills:
        results["recovery: after a kill"] = [measure_kills(arguments.kills)]
    return results


class _Cost(NamedTuple):
    """Seconds of a fit, those of all processors, and how often it copied its state."""

    wall_s: float
    cpu_s: float
    n_copies: int


def measure_copies(n_pairs: int) -> Row:
    """Time fits in turns that take copies and that do not; return the ratios."""
    with_copies: list[_Cost] = []
    without: list[_Cost] = []
    X, y = PAIRED.data()
    with single_threaded_workers(N_WORKERS) as client:
        client.run(compiled.load, compiled.adam)

        def fit(recovers: bool) -> _Cost:
            setting = {"skdistmlp.max-recoveries": 3 if recovers else 0}
            with dask.config.set(setting), _counted_copies() as taken:
                cpu_s, begun = _cpu_s(), time.perf_counter()
                fit_uninterrupted(_estimator(PAIRED, client), X, y)
                wall_s = time.perf_counter() - begun
                return _Cost(wall_s, _cpu_s() - cpu_s, len(taken))

        # The rows are sent, and stay for those that follow.
        fit(recovers=False)
        pairs = range(n_pairs)
        for pair in with_progress("recovery", pairs, lambda n: f"pair {n + 1}"):
            # Either comes first as often: the machine may get slower or faster.
            for recovers in (True, False) if pair % 2 else (False, True):
                (with_copies if recovers else without).append(fit(recovers))
    n_copies = [cost.n_copies for cost in with_copies]
    assert min(n_copies) > 0, "a fit took no copies: it was too short for them"
    assert not any(cost.n_copies for cost in without), "copies without recovery"
    return {
        "network": PAIRED.name,
        "epochs": PAIRED.n_epochs,
        "pairs": n_pairs,
        "copies per fit": median(n_copies),
        "with copies, s": median(cost.wall_s for cost in with_copies),
        "without, s": median(cost.wall_s for cost in without),
        "ratio": median_ratio(
            [cost.wall_s for cost in with_copies], [cost.wall_s for cost in without]
        ),
        "target": MAX_RATIO,
        "CPU ratio": median_ratio(
            [cost.cpu_s for cost in with_copies], [cost.cpu_s for cost in without]
        ),
    }


def measure_kills(n_kills: int) -> Row:
    """Kill a worker of each fit, ever later; time until all shards train again.

    The spare worker that takes its place has not trained anything yet.
    """
    took_s: list[float] = []
    n_from_copies = 0
    X, y = KILLED.data()
    with (
        single_threaded_workers(N_WORKERS + 1) as client,
        dask.config.set(PATIENT | {"skdistmlp.max-recoveries": 3}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "the fit recovered from faults")
        undisturbed = _estimator(KILLED, client)
        begun = time.monotonic()
        fit_uninterrupted(undisturbed, X, y)
        fit_s = time.monotonic() - begun
        kills = range(n_kills)
        for kill in with_progress("recovery", kills, lambda n: f"kill {n + 1}"):
            client.wait_for_workers(N_WORKERS + 1)
            share = FIRST_KILL + (LAST_KILL - FIRST_KILL) * kill / max(1, n_kills - 1)
            killer = _Killer(client, rank=kill % N_WORKERS, after_s=share * fit_s)
            estimator = _estimator(KILLED, client)
            with _noted_starts() as started, killer:
                fit_uninterrupted(estimator, X, y)
            recoveries = estimator.recoveries_
            assert killer.killed_at is not None, "the fit ended before its worker did"
            assert len(recoveries) == 1, f"expected one recovery, but: {recoveries}"
            assert _same_bits(estimator, undisturbed), "the fit has other parameters"
            took_s.append(started[-1] - killer.killed_at)
            n_from_copies += recoveries[0].n_iter > 0
    return {
        "network": KILLED.name,
        "epochs": KILLED.n_epochs,
        "kills": n_kills,
        "from copies": f"{n_from_copies} of {n_kills}",
        "median, s": median(took_s),
        "worst, s": max(took_s),
        "target, s": MAX_RECOVERY_S,
    }


class _Killer:
    """Kills a worker that is training, some seconds after the context is entered.

    Attributes
    ----------
    killed_at : float or None
        Point in time of the kill.
    """

    def __init__(self, client: Client, rank: int, after_s: float) -> None:
        self._client = client
        self._rank = rank
        self._timer = threading.Timer(after_s, self._kill)
        self.killed_at: float | None = None

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def _kill(self) -> None:
        n_shards = self._client.run(lambda: len(worker._RUNS))
        pids = self._client.run(os.getpid)
        training = [pids[address] for address, number in n_shards.items() if number]
        if len(training) == N_WORKERS:
            self.killed_at = time.monotonic()
            os.kill(training[self._rank], signal.SIGKILL)


@contextmanager
def _counted_copies() -> Iterator[list[float]]:
    """Yield a list of when fits of this process have taken copies."""
    taken: list[float] = []
    take = StateCopies.take

    def take_and_note(copies: StateCopies, shards: Any) -> None:
        before = copies._last
        take(copies, shards)
        # Without room for new ones, those of before stay.
        if copies._last is not before:
            taken.append(time.monotonic())

    with patch.object(StateCopies, "take", take_and_note):
        yield taken


@contextmanager
def _noted_starts() -> Iterator[list[float]]:
    """Yield a list of when all shards of a run have found each other, to train."""
    started: list[float] = []
    note = RoundStart.note

    def note_start(start: RoundStart, message: Any) -> None:
        had_met = start.have_met
        note(start, message)
        if start._number == 0 and start.have_met and not had_met:
            started.append(time.monotonic())

    with patch.object(RoundStart, "note", note_start):
        yield started


def _estimator(workload: Workload, client: Client) -> Any:
    return DistributedMLPClassifier(
        **workload.parameters(), client=client, engine="peers", n_workers=N_WORKERS
    )


def _same_bits(estimator: Any, other: Any) -> bool:
    pairs = zip(
        [*estimator.coefs_, *estimator.intercepts_],
        [*other.coefs_, *other.intercepts_],
        strict=True,
    )
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


def _cpu_s() -> float:
    """Return the seconds that this process and all it started have computed."""
    process = psutil.Process()
    times = [each.cpu_times() for each in [process, *process.children(recursive=True)]]
    return float(sum(each.user + each.system for each in times))
