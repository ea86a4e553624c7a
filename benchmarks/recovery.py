"""What it costs that a fit can recover, and how long it takes to.

Pairs of fits, of which one copies its state and the other would not recover, show what
that costs while nothing happens. Fits of which a worker is killed show the rest.
"""

import argparse
import io
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
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
from skdistmlp.cluster.peers.messages import ProgressLine
from skdistmlp.cluster.peers.round_start import RoundStart
from skdistmlp.crossover.local_workers import single_threaded_workers
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.timing import median_ratio
from skdistmlp.crossover.workloads import Workload
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.estimators.uninterrupted import fit_uninterrupted
from skdistmlp.nn import compiled

PAIRED = Workload(784, (1024, 1024), n_steps=100, n_epochs=8)
"""About 18 s on two workers, with two or three pauses between rounds for copies."""

KILLED = Workload(784, (2048, 2048), n_steps=30, n_epochs=20)
"""About 40 s on two workers, with the first copies after the first round."""

N_WORKERS = 2

MAX_RATIO, MAX_RECOVERY_S = 1.03, 10.0
"""Targets: seconds with copies over those without, and seconds from a kill until
training goes on."""

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
    """Kill a worker of each fit, ever later; time until nothing is lost any more.

    That is first until all shards train again, and then until they have trained again
    what they had before. The spare worker that takes the place of the one that is
    killed has not trained anything yet.
    """
    goes_on_s: list[float] = []
    made_up_s: list[float] = []
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
            # A line is printed at the end of each epoch, and so noted.
            estimator = _estimator(KILLED, client, verbose=True)
            with _noted_course() as course, killer, redirect_stdout(io.StringIO()):
                fit_uninterrupted(estimator, X, y)
            recoveries = estimator.recoveries_
            assert killer.killed_at is not None, "the fit ended before its worker did"
            assert len(recoveries) == 1, f"expected one recovery, but: {recoveries}"
            assert _same_bits(estimator, undisturbed), "the fit has other parameters"
            goes_on_s.append(course.started[-1] - killer.killed_at)
            n_iter = recoveries[0].n_iter
            made_up_at = course.made_up_at(killer.killed_at, n_iter)
            made_up_s.append(made_up_at - killer.killed_at)
            n_from_copies += n_iter > 0
    return {
        "network": KILLED.name,
        "epochs": KILLED.n_epochs,
        "kills": n_kills,
        "from copies": f"{n_from_copies} of {n_kills}",
        "goes on: median, s": median(goes_on_s),
        "goes on: worst, s": max(goes_on_s),
        "target, s": MAX_RECOVERY_S,
        "made up: median, s": median(made_up_s),
        "made up: worst, s": max(made_up_s),
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


@dataclass
class _Course:
    """When the shards of a fit began to train, and when epochs ended.

    Attributes
    ----------
    started : list of float
        When all shards of a run had found each other: the first, and those that go on.
    epochs : list of (int, float)
        Number of each epoch, from 1, and when the client heard of its end. Those that
        are trained again come again.
    """

    started: list[float] = field(default_factory=list)
    epochs: list[tuple[int, float]] = field(default_factory=list)

    def made_up_at(self, killed_at: float, resumed_from: int) -> float:
        """Return when all epochs that had ended before a kill had ended again.

        Parameters
        ----------
        killed_at : float
            Point in time of the kill.
        resumed_from : int
            Epoch of the copies: until then, no epoch is trained again.
        """
        goes_on_at = self.started[-1]
        last = max((n for n, at in self.epochs if at <= killed_at), default=0)
        if last <= resumed_from:
            return goes_on_at
        return next(at for n, at in self.epochs if n == last and at > goes_on_at)


@contextmanager
def _noted_course() -> Iterator[_Course]:
    """Yield the course of the fits that this process trains meanwhile."""
    course = _Course()
    note = RoundStart.note

    def note_message(start: RoundStart, message: Any) -> None:
        had_met = start.have_met
        note(start, message)
        now = time.monotonic()
        if start._number == 0 and start.have_met and not had_met:
            course.started.append(now)
        if isinstance(message, ProgressLine) and message.text.startswith("Iteration "):
            course.epochs.append((int(message.text.split()[1].rstrip(",")), now))

    with patch.object(RoundStart, "note", note_message):
        yield course


def _estimator(workload: Workload, client: Client, *, verbose: bool = False) -> Any:
    return DistributedMLPClassifier(
        **workload.parameters(),
        client=client,
        engine="peers",
        n_workers=N_WORKERS,
        verbose=verbose,
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
