"""Fits that move to a faster plan: real workers on machines that are made up."""

import os
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import dask
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.peers import driver
from skdistmlp.cluster.peers import elastic as module
from skdistmlp.cluster.peers.elastic import Elastic, without_plan
from skdistmlp.cluster.peers.measured import HeldError, MeasurementError
from skdistmlp.cluster.peers.recovery import _look_for_move
from skdistmlp.cluster.peers.shard import Report
from skdistmlp.cluster.run import loaded
from skdistmlp.nn.compiled import LOADED_BYTES
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning import moves
from skdistmlp.planning.candidates import FitLength
from skdistmlp.planning.machines import Link, Machines, Speed
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.rates import REFERENCE
from skdistmlp.training.progress import Progress
from tests.cluster.leaks import assert_nothing_left, own_cluster, remember
from tests.cluster.support import WITHIN_S, bounded, in_thread, load, slow_process
from tests.training.jobs import MAX_EPOCHS, dataset_of, job_of, plan_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

WORKERS = ("tcp://a:1", "tcp://b:1")

SLOW_MACHINES = replace(REFERENCE, optimizer_bytes_per_s=1e4)
"""On which the optimiser takes seconds, and each of two workers needs half of them."""


def machines(n_workers, slow=()):
    """Return slow workers, some of which are three times as slow."""
    speeds = tuple(
        Speed(SLOW_MACHINES, {Grid(1): 3.0} if rank in slow else {})
        for rank in range(n_workers)
    )
    link = Link.of_rate(1e12, SLOW_MACHINES)
    return Machines(speeds[0], speeds, (link,) * n_workers)


def report(training_s=1.0, exchanging_s=0.0, n_steps=5, n_iter=1, alone_s=0.0):
    progress = Progress(None, 0.01, n_iter=n_iter, n_steps=n_steps)
    return Report(progress, None, training_s, exchanging_s, alone_s)


# Whether to look, and whether to move.


def prepared(_client, workers, *_):
    """Return the answers of workers that are prepared at once."""
    answers = {worker: Future() for worker in workers}
    for answer in answers.values():
        answer.set_result(None)
    return answers


@pytest.fixture
def spare(monkeypatch):
    """Workers beside the plan's; nothing is measured, and time does not matter."""
    others: list[str] = []
    measured = []

    def measure(_client, workers, held, *_):
        measured.append((workers, tuple(held)))

    monkeypatch.setattr(module, "MOVE_LOOK_S", 0.0)
    monkeypatch.setattr(module, "workers_of", lambda _: (WORKERS[0], *others))
    monkeypatch.setattr(module, "run_on_workers", prepared)
    monkeypatch.setattr(module, "worker_memory", lambda *_: {})
    monkeypatch.setattr(module, "measure_again", measure)
    monkeypatch.setattr(
        module, "machines_of", lambda *_: machines(len(measured[-1][0]))
    )
    return SimpleNamespace(others=others, measured=measured)


def elastic_on(n_shards=1, fixed=(None, None), progress=None):
    """Return what looks for a fit that is on the first workers."""
    job = job_of("adam")
    job = replace(job, initial=replace(job.initial, progress=progress))
    elastic = Elastic(None, job, dataset_of("adam"))
    plan = plan_of("peers", WORKERS, n_shards)
    vars(plan).update(fixed=fixed)
    elastic.begin(plan, progress)
    return elastic


SLOW_ROUND = {"training_s": 1000.0}
"""One in which a step takes as long as on slow machines."""


def rounds(elastic, n_rounds=3, **times):
    """Return what is said after some rounds."""
    return [
        elastic.look([report(n_steps=5 * n, n_iter=1, **times)], 0.1)
        for n in range(1, 1 + n_rounds)
    ]


def test_nothing_is_measured_while_nobody_joins(spare):
    assert rounds(elastic_on(), **SLOW_ROUND) == [None] * 3
    assert spare.measured == []


def test_a_worker_that_has_joined_is_prepared_and_then_measured(spare):
    spare.others.append(WORKERS[1])
    first, second = rounds(elastic_on(), 2, **SLOW_ROUND)
    assert first is None
    assert spare.measured == [(WORKERS, WORKERS[:1])]
    assert (second.kind, second.workers) == ("moved", ())
    assert second.plan.workers == WORKERS
    assert "a step should take" in second.why


def test_a_worker_that_was_measured_in_vain_is_not_measured_again(spare):
    spare.others.append(WORKERS[1])
    elastic = elastic_on(fixed=(1, None))
    assert rounds(elastic, 4, **SLOW_ROUND) == [None] * 4
    assert len(spare.measured) == 1
    # On another plan it may be of use.
    elastic.begin(elastic._plan, None)
    rounds(elastic, 1, **SLOW_ROUND)
    assert len(spare.measured) == 2


def test_a_fit_waits_for_the_number_of_workers_that_it_was_given(spare):
    spare.others.append(WORKERS[1])
    elastic = elastic_on(fixed=(3, None))
    assert rounds(elastic, **SLOW_ROUND) == [None] * 3
    assert spare.measured == []
    spare.others.append("tcp://c:1")
    elastic.begin(elastic._plan, None)
    assert len(rounds(elastic, 2, **SLOW_ROUND)[1].plan.workers) == 3


def test_a_fit_that_ends_soon_does_not_look(spare):
    spare.others.append(WORKERS[1])
    elastic = elastic_on()
    # No step would be left, or those that are take less than the move.
    late = report(training_s=1000.0, n_iter=MAX_EPOCHS)
    assert elastic.look([late], 0.1) is None
    assert rounds(elastic_on(), training_s=0.01) == [None] * 3
    assert spare.measured == []


def test_a_resumed_fit_looks_while_epochs_are_left(spare):
    """Those before it was cut off count once."""
    spare.others.append(WORKERS[1])
    n_done = MAX_EPOCHS // 2
    resumed = elastic_on(progress=Progress(None, 0.01, n_iter=n_done, n_steps=5))
    slow = [report(n_steps=n, n_iter=n_done + 1, **SLOW_ROUND) for n in (10, 15)]
    assert resumed.look(slow[:1], 0.1) is None
    assert resumed.look(slow[1:], 0.1).kind == "moved"
    assert len(spare.measured) == 1


def test_workers_are_measured_less_and_less_often(spare, monkeypatch):
    """As long as a worker is slow, and nothing can be done about it."""
    monkeypatch.setattr(module, "MOVE_LOOK_S", 10.0)
    now, at = [1000.0], []
    monkeypatch.setattr(
        module, "time", SimpleNamespace(monotonic=lambda: now[0]), raising=True
    )
    monkeypatch.setattr(module, "move_that_pays", lambda *_: None)
    elastic = elastic_on(2)
    for n in range(1, 101):
        now[0] += 5.0
        before = len(spare.measured)
        pair = [report(1000.0, 900.0, 5 * n), report(1000.0, 0.0, 5 * n)]
        elastic.look(pair, 0.1)
        if len(spare.measured) > before:
            at.append(now[0] - 1000.0)
    assert at == [10.0, 30.0, 70.0, 150.0, 310.0]


def test_a_fit_stays_while_others_hold_the_workers(spare, monkeypatch):
    def refuse(*_):
        raise HeldError("other fits hold the workers")

    monkeypatch.setattr(module, "measure_again", refuse)
    spare.others.append(WORKERS[1])
    assert rounds(elastic_on(), **SLOW_ROUND) == [None] * 3


def test_workers_that_others_hold_are_tried_again(spare, monkeypatch):
    spare.others.append(WORKERS[1])
    elastic, held = elastic_on(), [1, 2]
    measure = module.measure_again

    def refuse(*arguments):
        if held:
            held.pop()
            raise HeldError("other fits hold the workers")
        measure(*arguments)

    monkeypatch.setattr(module, "measure_again", refuse)
    *stays, moves = rounds(elastic, 4, **SLOW_ROUND)
    assert stays == [None] * 3
    assert moves.kind == "moved"


def test_a_move_that_is_refused_is_tried_again(spare):
    spare.others.append(WORKERS[1])
    elastic, may_move = elastic_on(), [True, False]
    fit = SimpleNamespace(may_move=lambda _: may_move.pop(), check_s=0.0)
    _, refused, moves = (
        _look_for_move(elastic, fit, [report(n_steps=n, **SLOW_ROUND)], 0.1)
        for n in (5, 10, 15)
    )
    assert refused is None
    assert moves.kind == "moved"
    assert len(spare.measured) == 2


def test_checking_rows_is_part_of_what_a_move_costs(spare):
    spare.others.append(WORKERS[1])
    fit = SimpleNamespace(may_move=lambda _: True, check_s=1e9)
    elastic = elastic_on()
    for n in (5, 10, 15):
        reports = [report(n_steps=n, **SLOW_ROUND)]
        assert _look_for_move(elastic, fit, reports, 0.1) is None
    assert spare.measured == []


def test_a_fit_does_not_come_back_to_a_worker_that_was_slow(spare):
    """Trials may find it fast."""
    slow, third = WORKERS[1], "tcp://c:1"
    spare.others += [slow, third]
    elastic = elastic_on(2, fixed=(2, None))
    pairs = [
        [report(1000.0, 900.0, 5 * n), report(1000.0, 0.0, 5 * n)] for n in range(1, 5)
    ]
    prepared, moved = (elastic.look(pair, 0.1) for pair in pairs[:2])
    assert prepared is None
    assert moved.workers == (slow,)
    elastic.begin(moved.plan, pairs[1][0].progress)
    spare.measured.clear()
    for pair in pairs[2:]:
        elastic.look(pair[::-1], 0.1)
    assert spare.measured
    assert all(slow not in workers for workers, _ in spare.measured)


def slow_second(n, times=2.0):
    """Return the reports of a round in which the second worker computes longer."""
    return [report(1000.0, 1000.0 - 900.0 / times, 5 * n), report(1000.0, 100.0, 5 * n)]


def test_a_single_slow_round_is_no_reason_to_measure(spare):
    elastic = elastic_on(2)
    for n, times in enumerate((2.0, 1.0, 2.0, 1.0), start=1):
        assert elastic.look(slow_second(n, times), 0.1) is None
    assert spare.measured == []
    elastic.look(slow_second(5), 0.1)
    elastic.look(slow_second(6), 0.1)
    assert spare.measured


def test_a_slow_worker_that_has_lost_the_others_is_no_news(spare, monkeypatch):
    elastic = elastic_on(2)
    assert elastic.look(slow_second(1), 0.1) is None
    # The others are lost before it is time to look.
    elastic._next_look_at = float("inf")
    assert elastic.look(slow_second(2), 0.1) is None
    assert {*elastic._seen} == {WORKERS[1]}
    elastic.begin(plan_of("peers", WORKERS[1:], 1), slow_second(2)[0].progress)
    elastic._next_look_at = 0.0
    monkeypatch.setattr(module, "workers_of", lambda _: WORKERS[1:])
    for n in range(3, 6):
        assert elastic.look([report(n_steps=5 * n, **SLOW_ROUND)], 0.1) is None
    assert spare.measured == []


def test_a_worker_with_fewer_threads_is_no_news_on_a_plan_made_for_it(
    spare, monkeypatch
):
    # On which the time is in proportion to the parameters.
    monkeypatch.setattr(moves, "REFERENCE", SLOW_MACHINES)
    job = job_of("adam")
    elastic = elastic_on(2)
    split = NetworkSplit.by_shares(job.network.layer_units, [4, 1])
    elastic.begin(replace(elastic._plan, split=split), None)
    equal = [[report(1000.0, 0.0, 5 * n)] * 2 for n in range(1, 4)]
    assert [elastic.look(pair, 0.1) for pair in equal] == [None] * 3
    assert {*elastic._seen} == {WORKERS[1]}
    assert spare.measured == []
    # It is if it becomes slower than it was planned for.
    for n in (4, 5):
        elastic.look(slow_second(n), 0.1)
    assert spare.measured


def test_what_the_first_computes_for_all_does_not_make_it_slow(spare):
    elastic = elastic_on(2)
    for n in range(1, 5):
        scores = report(1000.0, 0.0, 5 * n, alone_s=600.0)
        assert elastic.look([scores, report(1000.0, 600.0, 5 * n)], 0.1) is None
    assert spare.measured == []


def test_a_fit_does_not_go_back_to_a_plan_on_which_a_worker_was_slow(
    spare, monkeypatch
):
    """It is given less then, and computes as long as the other. Trials find it fast."""
    monkeypatch.setattr(moves, "REFERENCE", SLOW_MACHINES)
    elastic = elastic_on(2, fixed=(2, None))
    before = elastic._plan
    assert elastic.look(slow_second(1), 0.1) is None
    moved = elastic.look(slow_second(2), 0.1)
    assert (moved.kind, moved.workers) == ("moved", ())
    assert {*moved.plan.workers} == {*before.workers}
    assert moved.plan.split != before.split
    elastic.begin(moved.plan, slow_second(2)[0].progress)
    spare.measured.clear()
    equal = [[report(1000.0, 0.0, 5 * n)] * 2 for n in range(3, 10)]
    assert [elastic.look(pair, 0.1) for pair in equal[:3]] == [None] * 3
    # It knows that already.
    assert spare.measured == []
    # Nor when workers are measured for another reason.
    elastic._planned_for.clear()
    assert [elastic.look(pair, 0.1) for pair in equal[3:]] == [None] * 4
    assert spare.measured


def test_a_worker_is_not_left_before_the_fit_has_moved(spare):
    slow, third = WORKERS[1], "tcp://c:1"
    spare.others += [slow, third]
    elastic = elastic_on(2, fixed=(2, None))
    assert elastic.look(slow_second(1, 10.0), 0.1) is None
    assert elastic.look(slow_second(2, 10.0), 0.1).workers == (slow,)
    elastic.move_refused()
    elastic.begin(elastic._plan, slow_second(2)[0].progress)
    assert elastic._left_as_slow == set()
    assert elastic.look(slow_second(3, 10.0), 0.1).workers == (slow,)
    elastic.begin(elastic._chosen[0], slow_second(3)[0].progress)
    assert elastic._left_as_slow == {slow}


@pytest.mark.parametrize("has_loaded", [True, False])
def test_a_worker_needs_room_for_compiled_code_that_it_has_not_loaded(
    spare, monkeypatch, has_loaded
):
    """To be measured, and to train."""
    its = WorkerMemory(LOADED_BYTES)
    taken = {WORKERS[0]: 0, WORKERS[1]: 0 if has_loaded else LOADED_BYTES - 10**6}
    monkeypatch.setattr(
        module, "worker_memory", lambda _client, asked: dict.fromkeys(asked, its)
    )
    monkeypatch.setattr(
        loaded,
        "answers_in_time",
        lambda _client, asked, *_: {worker: (1.0, taken[worker]) for worker in asked},
    )
    spare.others.append(WORKERS[1])
    elastic = elastic_on()
    elastic._trial = replace(elastic._trial, runs_compiled=True)
    offer = elastic._offer(WORKERS, FitLength(1, 1))
    assert [its.taken for its in offer.memory.values()] == [*taken.values()]
    taken[WORKERS[1]] += 10**6
    # The fit can do without a spare one, not without its own.
    offer = elastic._offer(WORKERS, FitLength(1, 1))
    assert offer.workers == (WORKERS if has_loaded else WORKERS[:1])
    taken[WORKERS[0]] = LOADED_BYTES
    with pytest.raises(MeasurementError, match="tcp://a:1 has 0"):
        elastic._offer(WORKERS, FitLength(1, 1))


def test_steps_before_a_loss_do_not_count(spare):
    elastic = elastic_on()
    elastic.begin(elastic._plan, Progress(None, 0.01, n_steps=100))
    # It was lost, and the fit resumed from before.
    assert elastic.look([report(n_steps=50)], 0.1) is None
    assert elastic._n_steps == 50


def test_memory_of_the_present_plan_counts_as_free():
    plan = plan_of("peers", WORKERS, 2)
    vars(plan).update(bytes_held=(30, 200))
    memory = {w: WorkerMemory(1000, taken=100) for w in (*WORKERS, "tcp://c:1")}
    free = without_plan(memory, plan)
    assert [its.taken for its in free.values()] == [70, 0, 100]


# Fits.


PARAMETERS = {
    "hidden_layer_sizes": (30, 20),
    "batch_size": 50,
    "max_iter": 12,
    "random_state": 0,
    "n_iter_no_change": 100,
    "engine": "peers",
}


@pytest.fixture
def data(digits):
    return digits[0][:400], digits[1][:400]


@pytest.fixture
def elastic_fits(monkeypatch):
    """Have fits look after each epoch, and believe what `machines` says."""
    monkeypatch.setattr(module, "MOVE_LOOK_S", 0.0)
    monkeypatch.setattr(module, "PAYS", 0.0)
    monkeypatch.setattr(driver, "ROUND_S", 0.0)
    slow: set[str] = set()
    measure, measured = module.measure_again, []

    def measure_really(client, workers, *others):
        measured.append(workers)
        return measure(client, workers, *others)

    def made_up(*_):
        workers = measured[-1]
        return machines(
            len(workers), [rank for rank, w in enumerate(workers) if w in slow]
        )

    monkeypatch.setattr(module, "measure_again", measure_really)
    monkeypatch.setattr(module, "machines_of", made_up)
    monkeypatch.setattr(module, "as_slow_as_seen", lambda offer, *_: offer)
    # A step takes less than on such machines, which would favour staying.
    move = module.move_that_pays
    monkeypatch.setattr(
        module,
        "move_that_pays",
        lambda plan, offer, _, cost_s: move(plan, offer, 1e9, cost_s),
    )
    # The measurement may wait for a busy machine.
    monkeypatch.setattr(
        "skdistmlp.cluster.peers.measurement.MEASURING_TIMEOUT_S", WITHIN_S
    )
    with dask.config.set({"skdistmlp.elastic": True, "skdistmlp.max-recoveries": 1}):
        yield slow


def assert_equal_to_rounding(clf, other):
    for mine, theirs in zip(
        [*clf.coefs_, *clf.intercepts_],
        [*other.coefs_, *other.intercepts_],
        strict=True,
    ):
        assert_allclose(mine, theirs, rtol=1e-6, atol=1e-10)
    assert clf.n_iter_ == other.n_iter_


def in_round(monkeypatch, number, action):
    """Do something before one of the rounds of the first run."""
    start, done = driver.PeersRun._start_round, threading.Event()

    def act_and_start(run, started):
        if started == number and not done.is_set():
            done.set()
            action(run._workers)
        return start(run, started)

    monkeypatch.setattr(driver.PeersRun, "_start_round", act_and_start)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:the fit")
def test_a_fit_moves_to_a_worker_that_joins(data, elastic_fits, monkeypatch, capsys):
    """One line is printed per epoch, and nobody is warned of what was asked for."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(load)
        remember(client)
        clf = DistributedMLPClassifier(**PARAMETERS, verbose=True, client=client)
        alone = bounded(clf.fit, *data)
        assert (alone.n_workers_, alone.recoveries_) == (1, ())
        lines = capsys.readouterr().out

        def grow(_):
            cluster.scale(2)
            client.wait_for_workers(2, timeout=WITHIN_S)

        in_round(monkeypatch, 3, grow)
        grown = DistributedMLPClassifier(**PARAMETERS, verbose=True, client=client)
        bounded(grown.fit, *data)
        assert_nothing_left(client)
    assert grown.n_workers_ == 2
    assert_equal_to_rounding(grown, alone)
    assert len(capsys.readouterr().out.splitlines()) == len(lines.splitlines())
    (recovery,) = grown.recoveries_
    assert (recovery.kind, recovery.lost) == ("moved", ())
    assert 3 < recovery.n_iter < 12
    assert not recovery.same_bits
    assert recovery.workers == grown.plan_.workers
    assert "the fit moved to 2 workers after" in str(grown.plan_)
    assert "2 workers should train" in grown.plan_.reason


@pytest.mark.slow
def test_a_slow_worker_is_replaced_where_the_number_is_fixed(
    data, elastic_fits, monkeypatch
):
    with own_cluster(n_workers=3) as client:
        client.run(load)
        # Until a worker is slow, three equal ones are measured once, in vain.
        in_round(monkeypatch, 4, lambda workers: elastic_fits.add(workers[1]))
        monkeypatch.setattr(
            module, "slowness", lambda *_: dict.fromkeys(elastic_fits, 3.0)
        )
        clf = DistributedMLPClassifier(**PARAMETERS, n_workers=2, client=client)
        bounded(clf.fit, *data)
        other = DistributedMLPClassifier(**PARAMETERS, n_workers=1, client=client)
        bounded(other.fit, *data)
    (recovery,) = clf.recoveries_
    assert (recovery.kind, recovery.lost) == ("moved", tuple(elastic_fits))
    assert clf.n_workers_ == 2
    assert not elastic_fits & {*clf.plan_.workers}
    assert_equal_to_rounding(clf, other)


SLOWED = {
    "hidden_layer_sizes": (512, 512),
    "batch_size": 100,
    "max_iter": 300,
    "tol": 0.0,
    "random_state": 0,
    "n_iter_no_change": 1000,
    "engine": "peers",
    "n_workers": 2,
}
"""A fit that takes seconds, or over a minute if a worker is slow."""

MOVES_WITHIN_S = 300.0
"""Seconds for such a fit, on a busy machine too."""


@pytest.mark.slow
@pytest.mark.filterwarnings("error:the fit")
def test_a_worker_that_really_becomes_slow_is_replaced(data, monkeypatch, caplog):
    """Nothing is made up: not what is measured, nor whether the move pays."""
    monkeypatch.setattr(module, "MOVE_LOOK_S", 1.0)
    monkeypatch.setattr(driver, "ROUND_S", 0.5)
    with (
        own_cluster(n_workers=3) as client,
        ExitStack() as slowed,
        caplog.at_level("INFO", "skdistmlp"),
    ):
        client.run(load)
        pids = client.run(os.getpid)

        def slow_down(workers):
            slowed.enter_context(slow_process(pids[workers[1]]))
            slow.append(workers[1])

        slow: list[str] = []
        in_round(monkeypatch, 1, slow_down)
        clf = DistributedMLPClassifier(**SLOWED, client=client)
        with dask.config.set(
            {"skdistmlp.elastic": True, "skdistmlp.max-recoveries": 1}
        ):
            in_thread(clf.fit, *data).result(MOVES_WITHIN_S)
        slowed.close()
        assert_nothing_left(client)
        other = DistributedMLPClassifier(**SLOWED, client=client)
        in_thread(other.fit, *data).result(MOVES_WITHIN_S)
    # On a busy machine, others may be slow for a moment too.
    assert {recovery.kind for recovery in clf.recoveries_} == {"moved"}
    left = [recovery for recovery in clf.recoveries_ if recovery.lost == tuple(slow)]
    assert left, clf.recoveries_
    assert not {*slow} & {*left[0].workers}
    assert "a step should take" in left[0].error
    assert str(left[0]) in caplog.messages
    assert other.recoveries_ == ()
    assert_equal_to_rounding(clf, other)


def test_a_fit_that_is_not_elastic_stays(data, elastic_fits, monkeypatch):
    with (
        own_cluster(n_workers=2) as client,
        dask.config.set({"skdistmlp.elastic": False}),
    ):
        client.run(load)
        monkeypatch.setattr(module, "measure_again", lambda *_: pytest.fail("asked"))
        clf = DistributedMLPClassifier(**PARAMETERS, n_workers=1, client=client)
        bounded(clf.fit, *data)
    assert clf.recoveries_ == ()
