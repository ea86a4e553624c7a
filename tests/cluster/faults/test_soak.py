"""Many fits with both engines of clusters, under random faults at random moments.

They recover from lost workers, so all end with the parameters of an undisturbed fit,
unless the fault is an error of a shard or an interrupt, or no worker is left.
``SKDISTMLP_SOAK_FITS`` is the number of fits, ``SKDISTMLP_SOAK_SEED`` the seed of the
first; everything about a fit follows from its seed. To repeat a single one::

    SKDISTMLP_SOAK_SEED=9 SKDISTMLP_SOAK_FITS=1 pytest -m slow -k random_faults
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client

from skdistmlp.cluster.peers import driver as peers
from skdistmlp.cluster.peers.copies import StateCopies
from skdistmlp.training import loop
from tests.cluster.faults.random_faults import (
    FAULTS,
    Case,
    Scenario,
    has_ended,
)
from tests.cluster.faults.random_moments import TOPIC, disarm
from tests.cluster.leaks import assert_nothing_left, own_cluster, remember
from tests.cluster.memory import SHORT_HISTORIES, Memory, show
from tests.cluster.support import WITHIN_S, in_thread, load, wait_until
from tests.estimators.recorder import Told
from tests.estimators.support import InterruptAfter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::sklearn.exceptions.ConvergenceWarning",
        "ignore:Training interrupted by user:UserWarning",
        "ignore:the fit (recovered from faults|left workers):UserWarning",
    ),
]

N_FITS = int(os.environ.get("SKDISTMLP_SOAK_FITS", "300"))
FIRST_SEED = int(os.environ.get("SKDISTMLP_SOAK_SEED", "0"))

BOUND_S = 40.0
"""Seconds beyond the timeout of an exchange in which a fit ends after its fault. It may
wait for other workers for `skdistmlp.recovery-wait`, which is 10 s."""

N_WORKERS = 3

UNTIL_INTERRUPTED = "right until interrupted"
"""How a fit ended that was interrupted, with the parameters of that moment."""

RESTART_RTOL = 1e-3
"""By how much two losses of L-BFGS may differ that began again at the same iterates. It
amplifies rounding; in the first 300 seeds, none differed in the four digits printed."""

PATIENT = {"distributed.deploy.lost-worker-timeout": "1h"}
"""With its default of 15 s, `LocalCluster` closes the nanny of a worker that is missing
15 s after an earlier loss, although it was back in between and its nanny has just begun
to start it again. Whoever waits for it, such as `Client.restart_workers`, waits in vain
(seed 131, 60 s; its fit had ended after one)."""

RETURNS_WITHIN_S = 30.0
"""Seconds in which a nanny, on a busy machine too, brings back its worker."""


def fit_under_fault(
    client: Client, case: Case, fit: Callable[[], Any]
) -> tuple[Future[Any], float]:
    """Fit with the fault of a case; return the fit when it has ended, and its seconds.

    Dask may take longer to restart or replace a worker.
    """
    ended_at: list[float] = []

    def timed() -> Any:
        try:
            return fit()
        finally:
            ended_at.append(time.monotonic())

    found = client.run(os.getpid)
    pids = {worker: found[worker] for worker in client.nthreads()}
    scenario = Scenario(client, case, pids)

    def listen(event: tuple[float, Any]) -> None:
        if event[1] == case.seed:
            scenario.reached.set()

    client.subscribe_topic(TOPIC, listen)
    with (
        pytest.MonkeyPatch.context() as scenario.patch,
        dask.config.set(
            {
                "skdistmlp.exchange-timeout": f"{case.timeout_s}s",
                # With 1, a fit by tasks copies its state after each epoch.
                "skdistmlp.copies.max-share": 1.0 if case.round_s == 0 else 0.02,
                "skdistmlp.checkpoint.interval": "0s",
            }
        ),
    ):
        scenario.patch.setattr(peers, "ROUND_S", case.round_s)
        # A single shard has none.
        if case.round_s == 0 and case.fit.n_workers > 1:
            scenario.patch.setattr(StateCopies, "is_due", True)
        injection = FAULTS[case.fault].inject(scenario)
        next(injection)
        begun = time.monotonic()
        scenario.fit = in_thread(timed)
        try:
            next(injection, None)
            wait([scenario.fit], case.timeout_s + BOUND_S)
            if not scenario.fit.done():
                # A suspended worker would not answer.
                scenario.wake()
                show_stacks(client)
        finally:
            scenario.wake()
    client.unsubscribe_topic(TOPIC)
    assert scenario.fit.done(), f"the fit has not ended: {case}"
    for clean_up in scenario.clean_ups:
        clean_up()
    lost = {worker for worker, pid in pids.items() if has_ended(pid)}
    wait_until(lambda: not lost & set(client.nthreads()), "the workers are removed")
    have_workers(client, case.fault == "retired")
    client.run(disarm)
    return scenario.fit, ended_at[0] - begun


def have_workers(client: Client, was_retired: bool) -> None:
    """Wait for all workers, and for those that are too many to leave."""
    cluster: Any = client.cluster
    if was_retired:
        # Nobody starts another in its place.
        replace_missing(cluster, client)
    cluster.scale(N_WORKERS)
    try:
        client.wait_for_workers(N_WORKERS, timeout=RETURNS_WITHIN_S)
    except TimeoutError:
        show(f"a worker did not come back within {RETURNS_WITHIN_S:g} s")
        replace_missing(cluster, client)
        client.wait_for_workers(N_WORKERS, timeout=WITHIN_S)
    wait_until(lambda: len(client.nthreads()) == N_WORKERS, "no other worker is left")


def replace_missing(cluster: Any, client: Client) -> None:
    """Have new workers started in the place of missing ones."""
    # Not by scaling down only: the cluster's own list of workers, by which that chooses
    # whom to remove, is late, and no longer updated once a worker has left of which the
    # cluster had not heard.
    present = client.scheduler_info(n_workers=-1)["workers"].values()
    missing = cluster.worker_spec.keys() - {worker["name"] for worker in present}
    for name in missing:
        del cluster.worker_spec[name]
    cluster.scale(len(cluster.worker_spec))
    # A new worker may get the same name, and would count as started until then.
    wait_until(lambda: not missing & cluster.workers.keys(), "they are removed")
    cluster.scale(N_WORKERS)


def show_stacks(client: Client) -> None:
    """Print the stack of every thread, here and on the workers."""

    def stacks() -> str:
        frames = sys._current_frames().values()
        return "\n\n".join("".join(traceback.format_stack(frame)) for frame in frames)

    show(stacks())
    for worker, text in client.run(stacks, on_error="return").items():
        show(f"--- {worker}\n{text}")


def verdict(case: Case, clf: Any, data: Any, error: BaseException | None) -> str:
    """Return how a fit ended; "wrong" marks an outcome that must not occur."""
    fault = FAULTS[case.fault]
    if error is not None:
        named = isinstance(error, fault.errors)
        return type(error).__name__ if named else f"wrong: {error!r}"
    recoveries = clf.recoveries_
    if recoveries and not fault.may_lose:
        return f"wrong: nothing was lost, but {recoveries}"
    if any(recovery.restarts for recovery in recoveries):
        return verdict_of_restart(case, clf, data)
    if has_parameters_of(clf, case.fit.fit(case.fit.local(), data)):
        if not recoveries:
            return "right"
        if not all(recovery.same_bits for recovery in recoveries):
            return "right, on fewer workers"
        undisturbed = case.fit.estimator(clf.client, n_replicas=clf.n_replicas_)
        if not has_bits_of(clf, case.fit.fit(undisturbed, data)):
            return "wrong in the last bits"
        return "right, resumed" if recoveries[-1].n_iter else "right, started over"
    if not case.fault.startswith("interrupted"):
        return "wrong parameters"
    if any(
        has_parameters_of(clf, other) for other in interrupted_fits(case, clf, data)
    ):
        return UNTIL_INTERRUPTED
    return "wrong: parameters of no moment of the training"


def verdict_of_restart(case: Case, clf: Any, data: Any) -> str:
    """Return how L-BFGS ended that began again at its last iterate.

    It takes another path than the undisturbed fit, and where it has too few iterations
    to converge, its loss may be higher or lower. But where it began again it says
    itself, and a fit in this process that does so too takes the same path.
    """
    clone, n_before = case.fit.local(warm_start=True), 0
    begun_at = [recovery.n_iter for recovery in clf.recoveries_ if recovery.restarts]
    for n_iter in (*begun_at, clone.max_iter):
        if n_iter > n_before:
            case.fit.fit(clone.set_params(max_iter=n_iter - n_before), data)
        n_before = n_iter
    undisturbed = case.fit.fit(case.fit.local(), data)
    losses = f"loss {clf.loss_:.4g}, undisturbed {undisturbed.loss_:.4g}"
    if np.isclose(clf.loss_, clone.loss_, rtol=RESTART_RTOL):
        return losses
    return f"wrong: {losses}, restarted in one process {clone.loss_:.4g}"


def interrupted_fits(case: Case, clf: Any, data: Any) -> Iterator[Any]:
    """Yield local fits that are interrupted after the same number of steps.

    Interrupted in the next step, or during the validation of the epoch.
    """
    n_steps = clf._optimizer_state.n_steps
    n_epochs = len(clf.loss_curve_)
    for name, n_calls in (("training_step", n_steps), ("predict_blocks", n_epochs - 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, name, InterruptAfter(getattr(loop, name), n_calls))
            yield case.fit.fit(case.fit.local(), data)


def has_parameters_of(one: Any, other: Any) -> bool:
    pairs = zip(parameters_of(one), parameters_of(other), strict=True)
    return all(np.allclose(*pair, rtol=1e-6, atol=1e-9) for pair in pairs)


def has_bits_of(one: Any, other: Any) -> bool:
    pairs = zip(parameters_of(one), parameters_of(other), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


def parameters_of(clf: Any) -> list[Any]:
    return [*clf.coefs_, *clf.intercepts_]


def test_fits_under_random_faults_end_right_and_leave_nothing_behind(
    digits, capsys, tmp_path
):
    outcomes, memory = Counter(), Memory()
    with (
        capsys.disabled(),
        dask.config.set(SHORT_HISTORIES | PATIENT | {"skdistmlp.max-recoveries": 3}),
        own_cluster(n_workers=N_WORKERS, silence_logs=logging.CRITICAL) as client,
    ):
        client.run(load)
        try:
            for seed in range(FIRST_SEED, FIRST_SEED + N_FITS):
                case = Case.drawn(seed)
                outcome = run_case(client, case, digits, tmp_path)
                outcomes[case.fault, outcome] += 1
                assert_nothing_left(client, within_s=WITHIN_S)
                memory.look(client)
        finally:
            for (fault, outcome), number in sorted(outcomes.items()):
                show(f"{fault}: {outcome}: {number}")
        memory.check()
    assert not [end for end in outcomes if end[1].startswith("wrong")]


def wrong_epochs(told: Told, clf: Any, has_ended: bool) -> str:
    """Say what is wrong with the epochs that a callback was told of, if anything is.

    Each is announced once, also if it is repeated after a loss.
    """
    ended = [
        number
        for hook, name, number in told.hooks
        if hook == "end" and name in ("epoch", "lbfgs-iter")
    ]
    if ended != [*range(len(ended))]:
        return f"wrong: the callback was told of the ends of epochs {ended}"
    if has_ended and not any(recovery.restarts for recovery in clf.recoveries_):
        n_iter = clf.n_iter_
        if len(ended) != n_iter:
            return f"wrong: the callback was told of {len(ended)} epochs of {n_iter}"
    return ""


def run_case(client: Client, case: Case, data: Any, folder: Path) -> str:
    """Fit under the fault of a case; return how it ended."""
    remember(client)
    told = Told()
    checkpoint = folder / str(case.seed) if case.fit.has_checkpoint else None
    clf = case.fit.estimator(client, checkpoint=checkpoint)
    if case.fit.has_callback:
        clf.set_callbacks(told)
    begun = time.monotonic()
    fit, seconds = fit_under_fault(client, case, lambda: case.fit.fit(clf, data))
    until_whole = time.monotonic() - begun
    error = fit.exception()
    outcome = verdict(case, clf, data, error)
    if not outcome.startswith("wrong"):
        has_ended = error is None and outcome != UNTIL_INTERRUPTED
        if case.fit.has_callback and (why := wrong_epochs(told, clf, has_ended)):
            outcome = why
        if checkpoint is not None and has_ended and any(checkpoint.glob("*")):
            outcome = "wrong: the checkpoint is left"
    show(f"{case}: {outcome}, {seconds:.1f} s, {until_whole:.1f} s in all")
    return outcome
