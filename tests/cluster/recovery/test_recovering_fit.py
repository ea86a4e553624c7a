"""Fits that go on elsewhere, with runs that only say how they end."""

from dataclasses import replace

import dask
import numpy as np
import pytest
from scipy.optimize import OptimizeResult

from skdistmlp import ClusterError, ExchangeError, WorkerLostError
from skdistmlp.cluster.recovery import recovering_fit, replacement
from skdistmlp.cluster.recovery.abandoned import processes_of
from skdistmlp.cluster.recovery.announced import Announced
from skdistmlp.cluster.recovery.departure import Departure
from skdistmlp.cluster.recovery.recovering_fit import RecoveringFit
from skdistmlp.cluster.recovery.replacement import Spares
from skdistmlp.cluster.recovery.unchanged import UnchangedRows
from skdistmlp.cluster.run.arithmetic import Arithmetic
from skdistmlp.parallel.shard import ShardState
from skdistmlp.planning.cost import cost_of_training
from skdistmlp.planning.plan import plan_training
from skdistmlp.training.progress import Outcome
from tests.cluster.recovery.spares import has_them
from tests.training.jobs import dataset_of, job_of


class ScriptedRun:
    """A run whose end the test knows."""

    def __init__(
        self,
        job,
        ends_with,
        n_iter,
        departure=None,
        is_interrupted=False,
        is_interrupted_late=False,
        network=None,
        reached=None,
        is_placed=True,
        during=lambda: None,
        outcome=None,
    ):
        self.n_iter = n_iter if reached is None else reached
        self._ends_with, self._is_placed = ends_with, is_placed
        self._during, self._outcome = during, outcome
        self.departure, self.is_interrupted = departure, is_interrupted
        self.is_interrupted_late = is_interrupted_late
        progress = replace(job.initial.progress, n_iter=n_iter)
        state = replace(job.initial, progress=progress)
        if network is not None:
            state = replace(state, network=network)
        self._job = replace(job, initial=state) if n_iter else job

    def train(self, on_placed):
        if self._is_placed:
            on_placed()
        self._during()
        if isinstance(self._ends_with, BaseException):
            raise self._ends_with
        return replace(self._job.initial, outcome=self._outcome)

    def job_to_resume(self):
        return self._job


class Kept:
    """A checkpoint that notes what it is given."""

    def __init__(self):
        self.epochs = []
        self.offered = []
        self.newest = None

    def offer(self, state, snapshot):
        self.offered.append(state.progress.n_iter)

    def keep(self, state):
        self.epochs.append(state.progress.n_iter)

    def newer_than(self, n_iter):
        return self.newest


@pytest.fixture
def fit_on(client):
    """Return a function that has a fit run on two of three workers by a script."""

    def fit_on(*ends, max_recoveries=3, random_state=None, claim=has_them):
        job, dataset = job_of("adam"), dataset_of("adam")
        if random_state is not None:
            initial = replace(job.initial, random_state=random_state)
            job = replace(job, initial=initial)
        workers = tuple(client.nthreads())
        cost = cost_of_training(job, dataset)
        plan = plan_training(job.network.layer_units, "peers", workers[:2], cost)
        kept, plans = Kept(), []
        with dask.config.set(
            {
                "skdistmlp.max-recoveries": max_recoveries,
                "skdistmlp.recovery-wait": 0,
            }
        ):
            fit = RecoveringFit(
                client,
                plan,
                replace(job, split=plan.split),
                dataset,
                Spares(lambda spare: spare, claim),
                Announced(),
                kept,
            )
        script = iter(ends)

        def run_of(plan, job):
            plans.append(plan)
            return ScriptedRun(job, **next(script)(plan))

        return fit, run_of, plans, kept

    return fit_on


def loses(n_iter, rank=1):
    return lambda plan: {
        "ends_with": WorkerLostError("it was lost", (plan.workers[rank],)),
        "n_iter": n_iter,
    }


def ends(plan):
    return {"ends_with": None, "n_iter": 9}


def test_a_fit_that_loses_nothing_is_one_run(fit_on):
    fit, run_of, plans, kept = fit_on(ends)
    assert fit.train(run_of).progress.n_iter == 9
    assert len(plans) == 1
    assert (fit.plan.recoveries, kept.epochs) == ((), [])


def test_others_take_the_place_of_those_that_were_lost(fit_on):
    fit, run_of, plans, kept = fit_on(loses(3), ends)
    fit.train(run_of)
    (recovery,) = fit.plan.recoveries
    first, second = plans[0].workers
    assert recovery.lost == (second,)
    assert plans[1].workers[0] == first
    assert plans[1].workers[1] not in plans[0].workers
    assert (recovery.n_iter, recovery.same_bits) == (3, True)
    assert fit.job.initial.progress.n_iter == 3
    assert kept.epochs == [3]


def test_a_worker_that_hangs_since_the_same_fault_was_lost_too(fit_on, monkeypatch):
    """An error names one that was killed; the other has not answered since."""

    def silent(_client, workers):
        return [worker for worker in workers if worker == plans[0].workers[0]]

    fit, run_of, plans, _ = fit_on(loses(3), ends)
    monkeypatch.setattr(replacement, "silent_workers", silent)
    fit.train(run_of)
    (found,) = fit.plan.recoveries
    assert found.lost == plans[0].workers
    assert not {*found.lost} & {*plans[1].workers}


def test_on_a_worker_with_more_threads_the_bits_may_differ(fit_on, client, monkeypatch):
    *_, third = client.nthreads()

    def processes(client):
        found = processes_of(client)
        return found | {third: found[third]._replace(n_threads=2)}

    monkeypatch.setattr(recovering_fit, "processes_of", processes)
    fit, run_of, plans, _ = fit_on(loses(3), ends)
    fit.train(run_of)
    assert third in plans[1].workers
    assert not fit.plan.recoveries[0].same_bits


def test_on_a_worker_with_another_numpy_the_bits_may_differ(fit_on, monkeypatch):
    arithmetic = {}

    def ask(client):
        # The run has asked those of its plan before.
        for worker, process in processes_of(client).items():
            key = worker, process.directory
            arithmetic[key] = Arithmetic("2.0", "1.14", None, (), ())
        lost = plans[0].workers[1]
        key = lost, processes_of(client)[lost].directory
        arithmetic[key] = arithmetic[key]._replace(numpy="2.1")
        return arithmetic

    monkeypatch.setattr(recovering_fit, "arithmetic_of", ask)
    fit, run_of, plans, _ = fit_on(loses(3), ends)
    fit.train(run_of)
    (recovery,) = fit.plan.recoveries
    assert not recovery.same_bits


def test_it_goes_on_with_fewer_and_then_nobody(fit_on):
    fit, run_of, plans, kept = fit_on(loses(2), loses(4), loses(6, rank=0))
    with pytest.raises(WorkerLostError) as error:
        fit.train(run_of)
    assert [plan.n_workers for plan in plans] == [2, 2, 1]
    (note,) = error.value.__notes__
    assert "Before that, the fit recovered" in note
    # What the last run had come to is not lost to a checkpoint.
    assert kept.epochs == [2, 4, 6]


def test_it_goes_on_from_the_checkpoint_if_that_is_newer(fit_on):
    fit, run_of, _, kept = fit_on(loses(3), ends)
    initial = fit.job.initial
    kept.newest = replace(initial, progress=replace(initial.progress, n_iter=5))
    jobs = []
    fit.train(lambda plan, job: jobs.append(job) or run_of(plan, job))
    assert jobs[1].initial is kept.newest
    assert fit.plan.recoveries[0].n_iter == 5
    assert kept.epochs == []


def interrupted(*_):
    raise KeyboardInterrupt


def has_trained(n_iter):
    """Return the end of a run that is lost after some epochs, with a network left."""

    def end(plan):
        return {**loses(n_iter)(plan), "network": ShardState(np.arange(3.0))}

    return end


def test_an_interrupt_while_it_waits_keeps_what_was_trained(fit_on, monkeypatch):
    fit, run_of, plans, kept = fit_on(has_trained(3))
    monkeypatch.setattr(recovering_fit, "await_workers", interrupted)
    state = fit.train(run_of)
    assert state.outcome is Outcome.INTERRUPTED
    assert state.progress.n_iter == 3
    assert list(state.network.parameters) == [0, 1, 2]
    assert (len(plans), kept.epochs) == (1, [3])


def test_the_best_parameters_are_kept_by_an_interrupt_too(fit_on, monkeypatch):
    def end(plan):
        best = ShardState(np.zeros(3), best=np.ones(3))
        return {**loses(3)(plan), "network": best}

    fit, run_of, _, _ = fit_on(end)
    monkeypatch.setattr(recovering_fit, "await_workers", interrupted)
    assert list(fit.train(run_of).network.parameters) == [1, 1, 1]


def test_an_interrupt_before_anything_is_trained_is_raised(fit_on, monkeypatch):
    fit, run_of, _, _ = fit_on(loses(0))
    monkeypatch.setattr(recovering_fit, "await_workers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit.train(run_of)


def stops(**others):
    """Return the end of a run that the user interrupts."""
    return lambda _plan: {"ends_with": KeyboardInterrupt(), "n_iter": 0} | others


def test_an_interrupt_while_rows_are_placed_again_keeps_what_was_trained(fit_on):
    fit, run_of, plans, _ = fit_on(has_trained(3), stops(is_placed=False))
    state = fit.train(run_of)
    assert (state.outcome, state.progress.n_iter) == (Outcome.INTERRUPTED, 3)
    assert list(state.network.parameters) == [0, 1, 2]
    assert len(plans) == 2


@pytest.mark.parametrize(
    "before",
    [
        # The first run has trained nothing, nor has one that starts over.
        (),
        (loses(0),),
    ],
)
def test_an_interrupt_while_rows_are_first_placed_is_raised(fit_on, before):
    fit, run_of, _, _ = fit_on(*before, stops(is_placed=False))
    # As `partial_fit` has it: it is nothing that this fit has trained.
    initial = replace(fit.job.initial, network=ShardState(np.zeros(3)))
    fit = replace(fit, job=replace(fit.job, initial=initial))
    with pytest.raises(KeyboardInterrupt):
        fit.train(run_of)


def test_an_interrupt_that_a_run_raises_while_it_trains_is_raised(fit_on):
    """A second one: the first has asked it to end after a step."""
    fit, run_of, _, _ = fit_on(has_trained(3), stops(is_interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        fit.train(run_of)


def test_a_first_interrupt_that_a_run_raises_keeps_what_was_trained(fit_on):
    """One that has a copy in this process does, while it ends."""
    network = ShardState(np.arange(3.0))
    fit, run_of, _, kept = fit_on(stops(n_iter=3, network=network))
    state = fit.train(run_of)
    assert (state.outcome, state.progress.n_iter) == (Outcome.INTERRUPTED, 3)
    assert list(state.network.parameters) == [0, 1, 2]
    assert kept.epochs == [3]
    # Nothing was trained.
    fit, run_of, _, _ = fit_on(stops())
    with pytest.raises(KeyboardInterrupt):
        fit.train(run_of)


@pytest.mark.parametrize("method", ["newer_than", "keep"])
def test_an_interrupt_of_the_checkpoint_keeps_what_was_trained(
    fit_on, monkeypatch, method
):
    fit, run_of, plans, kept = fit_on(has_trained(3))
    monkeypatch.setattr(kept, method, interrupted)
    state = fit.train(run_of)
    assert (state.outcome, state.progress.n_iter) == (Outcome.INTERRUPTED, 3)
    assert len(plans) == 1


@pytest.mark.parametrize("leaves_workers", [False, True])
def test_a_run_that_is_interrupted_while_it_ends_is_the_last(fit_on, leaves_workers):
    def end(plan):
        departure = Departure("retired", plan.workers[1:], "it is being retired")
        return {
            "ends_with": None,
            "n_iter": 3,
            "network": ShardState(np.arange(3.0)),
            "is_interrupted": True,
            "departure": departure if leaves_workers else None,
            "outcome": None if leaves_workers else Outcome.CONVERGED,
        }

    fit, run_of, plans, _ = fit_on(end)
    state = fit.train(run_of)
    assert (state.outcome, state.progress.n_iter) == (Outcome.INTERRUPTED, 3)
    assert list(state.network.parameters) == [0, 1, 2]
    assert len(plans) == 1


def test_an_interrupt_of_lbfgs_while_it_is_released_is_raised(fit_on):
    """As in scikit-learn, and as while it trains."""

    def end(plan):
        late = {"is_interrupted": True, "is_interrupted_late": True}
        return {**ends(plan), **late, "outcome": RESULT}

    fit, run_of, _, _ = fit_on(end)
    with pytest.raises(KeyboardInterrupt):
        fit.train(run_of)


def is_lost_after_interrupt(end):
    """Return the end of a run that had been interrupted before."""
    return lambda plan: end(plan) | {"is_interrupted": True}


@pytest.mark.parametrize("before", [(), (has_trained(2),)])
def test_an_interrupted_run_that_is_lost_ends_with_its_last_copies(
    fit_on, before, caplog
):
    caplog.set_level("INFO", "skdistmlp")
    fit, run_of, plans, kept = fit_on(*before, is_lost_after_interrupt(has_trained(3)))
    state = fit.train(run_of)
    assert (state.outcome, state.progress.n_iter) == (Outcome.INTERRUPTED, 3)
    assert list(state.network.parameters) == [0, 1, 2]
    assert len(plans) == 1 + len(before)
    assert kept.epochs[-1] == 3
    said = "the interrupted fit ends with its state after epoch 3: it was lost"
    assert said in caplog.messages


@pytest.mark.parametrize("max_recoveries", [0, 3])
def test_an_interrupted_run_that_is_lost_without_copies_is_an_interrupt(
    fit_on, max_recoveries
):
    end = is_lost_after_interrupt(loses(0))
    fit, run_of, _, _ = fit_on(end, max_recoveries=max_recoveries)
    said = r"its parameters are lost: it was lost A terminal"
    with pytest.raises(KeyboardInterrupt, match=said) as caught:
        fit.train(run_of)
    assert isinstance(caught.value.__cause__, WorkerLostError)


def is_interrupted_after(end):
    """Return the end of a run that is interrupted after it has failed."""
    late = {"is_interrupted": True, "is_interrupted_late": True}
    return lambda plan: end(plan) | late


def test_an_interrupt_after_a_loss_without_copies_blames_no_terminal(fit_on):
    fit, run_of, _, _ = fit_on(is_interrupted_after(loses(0)))
    with pytest.raises(KeyboardInterrupt) as caught:
        fit.train(run_of)
    assert caught.value.args == ()
    assert isinstance(caught.value.__cause__, WorkerLostError)


def test_an_interrupt_after_a_loss_ends_with_the_last_copies(fit_on):
    fit, run_of, plans, kept = fit_on(is_interrupted_after(has_trained(3)))
    state = fit.train(run_of)
    assert (state.outcome, state.progress.n_iter) == (Outcome.INTERRUPTED, 3)
    assert (len(plans), kept.epochs) == (1, [3])


def test_an_interrupt_after_another_error_does_not_hide_it(fit_on):
    def fails(plan):
        return {**has_trained(3)(plan), "ends_with": ClusterError("no memory")}

    fit, run_of, _, _ = fit_on(is_interrupted_after(fails))
    with pytest.raises(ClusterError, match="no memory"):
        fit.train(run_of)
    # One before it may have caused it.
    fit, run_of, _, _ = fit_on(is_lost_after_interrupt(fails))
    assert fit.train(run_of).outcome is Outcome.INTERRUPTED


def test_an_interrupted_run_that_is_lost_ends_with_the_checkpoint(fit_on):
    fit, run_of, _, kept = fit_on(is_lost_after_interrupt(loses(0)))
    initial = replace(fit.job.initial, network=ShardState(np.ones(3)))
    kept.newest = replace(initial, progress=replace(initial.progress, n_iter=5))
    state = fit.train(run_of)
    assert (state.outcome, state.progress.n_iter) == (Outcome.INTERRUPTED, 5)


def test_an_interrupt_before_another_run_keeps_what_was_trained(fit_on, monkeypatch):
    fit, run_of, plans, _ = fit_on(has_trained(3))
    looks = [processes_of(fit.client)] * 3

    def processes(_client):
        return looks.pop() if looks else interrupted()

    monkeypatch.setattr(recovering_fit, "processes_of", processes)
    state = fit.train(run_of)
    assert (state.outcome, state.progress.n_iter) == (Outcome.INTERRUPTED, 3)
    assert len(plans) == 1


def test_losses_are_bounded(fit_on):
    fit, run_of, plans, _ = fit_on(loses(1), loses(2), max_recoveries=1)
    with pytest.raises(WorkerLostError, match="it was lost"):
        fit.train(run_of)
    assert len(plans) == 2


def leaves(n_iter):
    return lambda plan: {
        "ends_with": None,
        "n_iter": n_iter,
        "departure": Departure("retired", (plan.workers[1],), "worker x is retired"),
    }


def test_departures_do_not_count_as_losses(fit_on):
    fit, run_of, plans, _ = fit_on(
        leaves(1), leaves(2), loses(3), ends, max_recoveries=1
    )
    fit.train(run_of)
    kinds = [recovery.kind for recovery in fit.plan.recoveries]
    assert kinds == ["retired", "retired", "lost"]
    assert len(plans) == 4


def test_a_paused_worker_that_has_resumed_is_of_use_again(fit_on):
    def pauses(plan):
        paused = Departure("paused", (plan.workers[1],), "worker x is paused")
        return {"ends_with": None, "n_iter": 1, "departure": paused}

    fit, run_of, plans, _ = fit_on(pauses, ends)
    fit.train(run_of)
    assert plans[1].workers == plans[0].workers
    assert [recovery.kind for recovery in fit.plan.recoveries] == ["paused"]


@pytest.mark.parametrize("kind", ["paused", "retired"])
def test_a_worker_that_accepts_tasks_again_was_not_lost(fit_on, kind):
    """It resumed, or was not retired after all, once the run had released all."""

    def end(plan):
        error = WorkerLostError("it accepts no tasks", (plan.workers[1],), kind)
        return {"ends_with": error, "n_iter": 0}

    fit, run_of, plans, _ = fit_on(end, loses(1, rank=0), ends, max_recoveries=1)
    fit.train(run_of)
    assert [recovery.kind for recovery in fit.plan.recoveries] == [kind, "lost"]
    # What it was paused by would probably be placed there again.
    is_of_use = plans[0].workers[1] in plans[1].workers
    assert is_of_use == (kind == "retired")


def test_a_paused_worker_that_was_restarted_since_was_lost(fit_on, monkeypatch):
    def end(plan):
        processes, second = processes_of(fit.client), plan.workers[1]
        process = processes[second]._replace(directory="another")
        restarted = processes | {second: process}
        monkeypatch.setattr(recovering_fit, "processes_of", lambda _: restarted)
        error = WorkerLostError("it is paused", (plan.workers[1],), "paused")
        return {"ends_with": error, "n_iter": 0}

    fit, run_of, _, _ = fit_on(end, ends)
    fit.train(run_of)
    assert [recovery.kind for recovery in fit.plan.recoveries] == ["lost"]


def test_it_says_who_could_take_the_place_of_workers(fit_on, client):
    fit, _, _, _ = fit_on(ends)
    first, second, third = client.nthreads()
    assert fit.spare_for((second,)) == (third,)
    assert fit.spare_for((first, second)) == (third,)


def test_a_fit_claims_the_workers_of_each_run(fit_on, client):
    claimed = []

    def claim(found, workers):
        claimed.append(([*found], [*workers]))
        return True

    first, second, third = client.nthreads()
    fit, run_of, _, _ = fit_on(loses(3), ends, claim=claim)
    fit.train(run_of)
    on_third = [first, third]
    assert claimed == [([], [first, second]), ([third], on_third), ([], on_third)]
    # Where it does not recover, it looks for nobody.
    del claimed[:]
    fit, run_of, _, _ = fit_on(ends, max_recoveries=0, claim=claim)
    fit.train(run_of)
    assert claimed == []


def test_a_fit_that_leaves_has_claimed_where_it_goes(fit_on, client):
    claimed, answers = [], [True]

    def claim(found, workers):
        claimed.append(([*found], [*workers]))
        return answers[-1]

    first, second, third = client.nthreads()
    fit, _, _, _ = fit_on(ends, claim=claim)
    assert fit.spare_for((second,)) == (third,)
    # There are too few.
    assert fit.spare_for((first, second)) == (third,)
    assert fit.spare_for(()) == ()
    plan = replace(fit.plan, workers=(third, second))
    move = Departure("moved", (first,), "it saves time", plan)
    assert fit.may_move(move)
    all_three, both = ([third], [first, second, third]), ([], [first, second])
    assert claimed == [all_three, both, both, all_three]
    answers.append(False)
    assert fit.spare_for((second,)) == ()
    assert not fit.may_move(move)


def breaks(n_iter):
    return lambda _plan: {"ends_with": ExchangeError("cut"), "n_iter": n_iter}


def test_an_exchange_that_fails_is_repeated_on_the_same_workers(fit_on):
    fit, run_of, plans, _ = fit_on(breaks(2), ends)
    fit.train(run_of)
    (recovery,) = fit.plan.recoveries
    assert plans[1].workers == plans[0].workers
    assert (recovery.kind, recovery.lost, recovery.n_iter) == ("broken", (), 2)
    assert recovery.same_bits
    assert str(recovery).startswith("an exchange failed after")


def test_an_exchange_that_fails_at_the_same_place_is_not(fit_on):
    fit, run_of, plans, _ = fit_on(breaks(2), breaks(2))
    with pytest.raises(ExchangeError):
        fit.train(run_of)
    assert len(plans) == 2


def test_one_that_fails_in_the_first_epoch_is_repeated_once(fit_on):
    fit, run_of, plans, _ = fit_on(breaks(0), ends)
    fit.train(run_of)
    (recovery,) = fit.plan.recoveries
    assert (recovery.kind, recovery.n_iter, len(plans)) == ("broken", 0, 2)
    fit, run_of, plans, _ = fit_on(breaks(0), breaks(0))
    with pytest.raises(ExchangeError):
        fit.train(run_of)
    assert len(plans) == 2


def separates(n_iter, *pairs):
    """Return the end of a run whose shards could not connect, pair by pair."""
    error = ExchangeError("no connection between them. Open a port.")
    error.apart = pairs
    return lambda _plan: {"ends_with": error, "n_iter": n_iter}


def test_a_worker_that_cannot_connect_to_another_is_replaced(fit_on):
    fit, run_of, plans, _ = fit_on(breaks(2), separates(2, (0, 1)), ends)
    fit.train(run_of)
    first, second = plans[1].workers
    assert plans[2].workers[0] == first
    assert plans[2].workers[1] not in plans[1].workers
    broken, lost = fit.plan.recoveries
    assert (broken.kind, lost.kind, lost.lost) == ("broken", "lost", (second,))
    assert lost.error == "no connection between them"
    assert lost.same_bits


def test_the_worker_that_was_apart_most_often_is_replaced(fit_on, client):
    fit, _, _, _ = fit_on()
    worst, first, second = "tcp://192.0.2.1:1", *tuple(client.nthreads())[:2]
    fit.plan = replace(fit.plan, workers=(worst, first, second))
    error = ExchangeError("no connection")
    error.apart = ((0, 1), (0, 2))
    assert fit._to_replace(fit._ranks_apart(error)) == (worst,)
    error.apart = ((1, 2),)
    assert fit._to_replace(fit._ranks_apart(error)) == (second,)
    # What was said before counts.
    error.apart = ((0, 2),)
    assert fit._to_replace(fit._ranks_apart(error)) == (second,)


def test_workers_that_stay_apart_end_the_fit_without_a_spare_one(fit_on):
    twice = breaks(2), separates(2, (0, 1))
    fit, run_of, plans, _ = fit_on(*twice, separates(2, (0, 1)))
    with pytest.raises(ExchangeError, match="no connection"):
        fit.train(run_of)
    assert [plan.n_workers for plan in plans] == [2, 2, 2]


def test_replacements_of_workers_that_are_apart_are_bounded(fit_on):
    fit, run_of, plans, _ = fit_on(breaks(2), separates(2, (0, 1)), max_recoveries=1)
    with pytest.raises(ExchangeError, match="no connection"):
        fit.train(run_of)
    assert len(plans) == 2


def test_one_that_fails_right_after_a_loss_is_repeated(fit_on):
    fit, run_of, _, _ = fit_on(breaks(2), loses(2), breaks(2), ends)
    fit.train(run_of)
    kinds = [recovery.kind for recovery in fit.plan.recoveries]
    assert kinds == ["broken", "lost", "broken"]


def test_the_same_place_is_that_of_the_failure_not_of_the_copies(fit_on):
    def late(plan):
        return breaks(2)(plan) | {"reached": 7}

    fit, run_of, plans, _ = fit_on(late, breaks(2), ends)
    fit.train(run_of)
    assert len(plans) == 3
    fit, run_of, plans, _ = fit_on(late, late)
    with pytest.raises(ExchangeError):
        fit.train(run_of)
    assert len(plans) == 2


def test_one_that_fails_before_any_copy_was_taken_is_repeated(fit_on):
    fit, run_of, plans, _ = fit_on(lambda _: breaks(0)(_) | {"reached": 7}, ends)
    fit.train(run_of)
    (recovery,) = fit.plan.recoveries
    assert (recovery.kind, recovery.n_iter, len(plans)) == ("broken", 0, 2)


def test_what_was_handed_over_is_kept_although_nobody_comes(fit_on, monkeypatch):
    fit, run_of, _, kept = fit_on(leaves(5))
    monkeypatch.setattr(recovering_fit, "await_workers", lambda *_: ())
    with pytest.raises(WorkerLostError, match="What was trained was handed over"):
        fit.train(run_of)
    assert kept.epochs == [5]


def test_a_lost_worker_outside_of_the_plan_is_a_loss(fit_on):
    """It had blocks of the rows, which Dask computes again."""

    def end(plan):
        lost = "tcp://192.0.2.1:1"
        return {"ends_with": WorkerLostError("blocks", (lost,)), "n_iter": 0}

    fit, run_of, plans, _ = fit_on(end, ends)
    fit.train(run_of)
    (found,) = fit.plan.recoveries
    assert (found.kind, found.lost) == ("lost", ("tcp://192.0.2.1:1",))
    assert plans[1].workers == plans[0].workers


CHANGED = "the rows in this process have changed"


def while_it_trains(end, do):
    """Return the end of a run that does something once its rows are placed."""
    return lambda plan: end(plan) | {"during": do}


def test_rows_that_change_before_they_are_placed_again_end_the_fit(fit_on):
    def change():
        # Once it is known that those that were placed are the same.
        fit._rows.check_placed()
        fit.dataset.X[0, 0] += 1

    change_and_lose = while_it_trains(loses(4), change)
    fit, run_of, plans, kept = fit_on(loses(3), change_and_lose, ends)
    with pytest.raises(ClusterError, match=CHANGED) as caught:
        fit.train(run_of)
    assert (len(plans), kept.epochs) == (2, [3, 4])
    elsewhere, before = caught.value.__notes__
    assert elsewhere == "It had to resume, since it was lost."
    assert "Before that, the fit recovered" in before


@pytest.fixture
def changing_when_placed(monkeypatch):
    """Return a function that has a fit place other rows again than it looked at."""
    check = UnchangedRows.check

    def changing(fit_of):
        def check_and_change(rows):
            check(rows)
            fit_of().dataset.X[0, 0] += 1

        monkeypatch.setattr(UnchangedRows, "check", check_and_change)

    return changing


@pytest.mark.parametrize("end", [ends, loses(4), leaves(4)])
@pytest.mark.parametrize("is_restored", [False, True])
def test_rows_that_change_while_they_are_placed_again_end_the_fit(
    fit_on, changing_when_placed, end, is_restored
):
    """They were the same when they were last looked at, before they were sent."""

    def restore():
        with pytest.raises(ClusterError):
            fit._rows.check_placed()
        if is_restored:
            fit.dataset.X[:] = before

    changing_when_placed(lambda: fit)
    fit, run_of, plans, kept = fit_on(loses(3), while_it_trains(end, restore), ends)
    before = fit.dataset.X.copy()
    with pytest.raises(ClusterError, match=CHANGED) as caught:
        fit.train(run_of)
    # No state of other rows is left to anybody.
    assert (len(plans), kept.epochs) == (2, [3])
    (note,) = caught.value.__notes__
    assert "Before that, the fit recovered" in note


def test_a_run_on_other_rows_ends_when_it_offers_a_state(fit_on, changing_when_placed):
    def offer():
        with pytest.raises(ClusterError):
            fit._rows.check_placed()
        fit.offer(fit.job.initial, None)
        pytest.fail("it goes on")

    changing_when_placed(lambda: fit)
    fit, run_of, plans, kept = fit_on(loses(3), while_it_trains(ends, offer))
    with pytest.raises(ClusterError, match=CHANGED):
        fit.train(run_of)
    assert (len(plans), kept.epochs, kept.offered) == (2, [3], [])


@pytest.mark.parametrize("max_recoveries", [0, 3])
def test_the_checkpoint_is_offered_the_states_of_the_first_run(fit_on, max_recoveries):
    """Its rows are those that others are compared with."""

    def offer():
        fit.offer(fit.job.initial, None)

    end = while_it_trains(ends, offer)
    fit, run_of, _, kept = fit_on(end, max_recoveries=max_recoveries)
    fit.train(run_of)
    assert kept.offered == [0]
    fit.checkpoint = None
    assert fit.offer is None


def test_a_fit_holds_no_state_besides_its_run(fit_on):
    held = []

    def look():
        held.append(fit.job.initial)

    fit, run_of, _, _ = fit_on(has_trained(3), while_it_trains(ends, look))
    fit.train(run_of)
    (state,) = held
    assert (state.progress.n_iter, state.network) == (3, None)


RESULT = OptimizeResult()
"""What L-BFGS ends with."""


def moves(plan):
    workers = plan.workers[::-1]
    moved = Departure("moved", (), "it saves time", replace(plan, workers=workers))
    return {"ends_with": None, "n_iter": 2, "departure": moved}


def finds_no_room(plan):
    error = ClusterError("shard 1 would hold too much. Use more workers.")
    return {"ends_with": error, "n_iter": 2, "is_placed": False}


def test_a_fit_that_finds_no_room_where_it_moves_goes_back(fit_on):
    """Nobody has asked for the move: it must not end the fit."""
    fit, run_of, plans, _ = fit_on(moves, finds_no_room, ends)
    assert fit.train(run_of).progress.n_iter == 9
    assert plans[1].workers != plans[0].workers
    assert (plans[2].workers, plans[2].split) == (plans[0].workers, plans[0].split)
    there, back = fit.plan.recoveries
    assert (there.kind, back.kind, back.n_iter) == ("moved", "moved", 2)
    assert back.error.endswith("plan failed: shard 1 would hold too much")
    # It may move again.
    fit, run_of, plans, _ = fit_on(moves, finds_no_room, moves, finds_no_room, ends)
    fit.train(run_of)
    assert len(plans) == 5


@pytest.mark.parametrize(
    "after",
    [
        # Where it began, it has no room any more.
        (moves, finds_no_room, finds_no_room),
        # Not while it is placed, but in training.
        (moves, lambda plan: finds_no_room(plan) | {"is_placed": True}),
        # The fit had to go there.
        (loses(1), finds_no_room),
    ],
)
def test_without_room_anywhere_else_a_fit_ends(fit_on, after):
    fit, run_of, plans, _ = fit_on(*after)
    with pytest.raises(ClusterError, match="too much"):
        fit.train(run_of)
    assert len(plans) == len(after)


def test_rows_are_looked_at_while_a_fit_waits_for_workers(fit_on, monkeypatch):
    """Before a move, they were looked at while it could still stay."""
    calls = []

    def noted(where, name):
        function = getattr(where, name)

        def call(*args):
            calls.append(name)
            return function(*args)

        monkeypatch.setattr(where, name, call)

    for name in ("look_again", "check", "note_placed", "check_placed"):
        noted(UnchangedRows, name)
    noted(recovering_fit, "lost_among")
    noted(recovering_fit, "await_workers")
    fit, run_of, _, _ = fit_on(loses(3), leaves(4), moves, ends)
    fit.train(run_of)
    again = ["await_workers", "check", "note_placed"]
    after_loss = ["check_placed", "look_again", "lost_among", *again]
    after_departure = ["check_placed", "look_again", *again]
    after_move = ["check_placed", "check", "note_placed"]
    at_the_end = ["check_placed"]
    assert calls == [*after_loss, *after_departure, *after_move, *at_the_end]


def test_an_interrupt_while_rows_are_checked_keeps_what_was_trained(
    fit_on, monkeypatch
):
    fit, run_of, plans, kept = fit_on(has_trained(3))
    monkeypatch.setattr(UnchangedRows, "check", interrupted)
    state = fit.train(run_of)
    assert state.outcome is Outcome.INTERRUPTED
    assert state.progress.n_iter == 3
    assert (len(plans), kept.epochs) == (1, [3])


def test_an_interrupt_while_the_last_rows_are_checked_loses_nothing(
    fit_on, monkeypatch
):
    def interrupt_the_check():
        monkeypatch.setattr(UnchangedRows, "check_placed", interrupted)

    def ends_with(outcome):
        end = {"outcome": outcome, "during": interrupt_the_check}
        return lambda plan: ends(plan) | end

    fit, run_of, _, kept = fit_on(has_trained(3), ends_with(Outcome.CONVERGED))
    state = fit.train(run_of)
    assert (state.progress.n_iter, kept.epochs) == (9, [3])
    assert state.outcome is Outcome.INTERRUPTED
    # But with L-BFGS, it is raised as at any other time.
    fit, run_of, _, _ = fit_on(ends_with(RESULT))
    with pytest.raises(KeyboardInterrupt):
        fit.train(run_of)


def test_an_interrupt_while_rows_of_a_lost_run_are_checked_keeps_its_state(
    fit_on, monkeypatch
):
    def interrupt_the_check():
        monkeypatch.setattr(UnchangedRows, "check_placed", interrupted)

    lost = while_it_trains(has_trained(4), interrupt_the_check)
    fit, run_of, plans, kept = fit_on(has_trained(3), lost)
    state = fit.train(run_of)
    assert (state.outcome, state.progress.n_iter) == (Outcome.INTERRUPTED, 4)
    # Nothing that may be of other rows.
    assert (len(plans), kept.epochs) == (2, [3])


def test_an_interrupt_while_lost_workers_are_looked_for_keeps_it_too(
    fit_on, monkeypatch
):
    fit, run_of, _, _ = fit_on(has_trained(3))
    monkeypatch.setattr(recovering_fit, "lost_among", interrupted)
    state = fit.train(run_of)
    assert (state.outcome, state.progress.n_iter) == (Outcome.INTERRUPTED, 3)


def test_a_fit_whose_rows_have_changed_does_not_move(fit_on):
    claimed = []
    fit, _, _, _ = fit_on(ends, claim=lambda *of: claimed.append(of) or True)
    departure = moves(fit.plan)["departure"]
    assert fit.may_move(departure)
    fit.dataset.X[0, 0] += 1
    assert not fit.may_move(departure)
    assert len(claimed) == 1


def test_each_run_draws_the_same_from_the_generator_of_numpy(fit_on):
    """Although a callback draws from it too."""
    generator = np.random.RandomState(0)
    fit, _, _, _ = fit_on(ends, random_state=generator)
    generator.rand()
    drawn = fit.job.initial.random_state.rand()
    assert drawn == np.random.RandomState(0).rand()


def test_failed_exchanges_are_bounded(fit_on):
    fit, run_of, plans, _ = fit_on(breaks(2), breaks(3), max_recoveries=1)
    with pytest.raises(ExchangeError):
        fit.train(run_of)
    assert len(plans) == 2


def breaks_before_training(*pairs):
    """Return the end of a run whose shards did not find each other, pair by pair."""

    def end(_plan):
        error = ExchangeError("reset. Call again.")
        error.before_training, error.apart = True, pairs
        return {"ends_with": error, "n_iter": 0}

    return end


def test_shards_whose_connection_breaks_while_they_meet_meet_again(fit_on):
    fit, run_of, plans, _ = fit_on(breaks_before_training(), ends)
    fit.train(run_of)
    (recovery,) = fit.plan.recoveries
    assert plans[1].workers == plans[0].workers
    assert (recovery.kind, recovery.lost, recovery.n_iter) == ("broken", (), 0)
    assert "the fit started over" in str(recovery)


def test_shards_whose_connection_breaks_twice_while_they_meet_end_the_fit(fit_on):
    fit, run_of, plans, _ = fit_on(*[breaks_before_training()] * 2)
    with pytest.raises(ExchangeError, match="reset") as raised:
        fit.train(run_of)
    assert len(plans) == 2
    # So that a fit that may do without peers does.
    assert raised.value.before_training


@pytest.mark.parametrize("before", [breaks(0), loses(0)])
def test_a_fit_that_may_have_taken_a_step_says_so(fit_on, before):
    twice = [breaks_before_training()] * 2
    fit, run_of, _, _ = fit_on(before, *twice)
    with pytest.raises(ExchangeError) as raised:
        fit.train(run_of)
    assert not raised.value.before_training


def test_workers_that_have_never_reached_each_other_end_the_fit(fit_on):
    fit, run_of, plans, _ = fit_on(breaks_before_training((0, 1)))
    with pytest.raises(ExchangeError) as raised:
        fit.train(run_of)
    assert len(plans) == 1
    assert raised.value.before_training


def test_other_errors_end_the_fit(fit_on):
    fit, run_of, plans, _ = fit_on(
        lambda _plan: {"ends_with": ClusterError("no memory"), "n_iter": 1}
    )
    with pytest.raises(ClusterError, match="no memory"):
        fit.train(run_of)
    assert len(plans) == 1


def test_without_recoveries_the_first_loss_ends_it(fit_on):
    fit, run_of, plans, _ = fit_on(loses(1), max_recoveries=0)
    with pytest.raises(WorkerLostError):
        fit.train(run_of)
    assert len(plans) == 1
