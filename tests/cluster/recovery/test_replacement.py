"""Which workers a fit has lost, which take their place, and the plan on them."""

from dataclasses import replace

import pytest
from distributed import Client, LocalCluster

from skdistmlp import WorkerLostError
from skdistmlp.cluster.client.rpc import answers_in_time
from skdistmlp.cluster.client.workers import known_workers
from skdistmlp.cluster.recovery import replacement
from skdistmlp.cluster.recovery.abandoned import (
    AbandonedWorkers,
    Process,
    lost_among,
    processes_of,
)
from skdistmlp.cluster.recovery.departure import Departure
from skdistmlp.cluster.recovery.replacement import (
    Spares,
    await_workers,
    plan_on,
    recovery_of,
    replacements,
)
from skdistmlp.cluster.run import loaded
from skdistmlp.cluster.run.arithmetic import arithmetic_here
from skdistmlp.cluster.run.reservation import WorkerClaim, WorkerShare
from skdistmlp.nn.compiled import LOADED_BYTES
from skdistmlp.planning.candidates import FitLength
from skdistmlp.planning.cost import StepCost, cost_of_training
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.plan import plan_training
from skdistmlp.training.progress import LbfgsProgress, Progress
from tests.cluster.recovery.spares import all_of, none_of
from tests.cluster.support import WITHIN_S, bounded
from tests.training.jobs import dataset_of, job_of


def without(lost):
    """Return workers that are lost, by address."""
    return AbandonedWorkers(dict(lost))


def test_a_worker_that_is_restarted_at_its_address_was_lost(client):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    before = processes_of(client)
    error = WorkerLostError("it was lost")
    assert lost_among(client, plan, before, error) == ()
    old = before | {second: before[second]._replace(directory="another")}
    assert lost_among(client, plan, old, error) == (second,)
    found = await_workers(client, plan, without({second: old[second]}), 0.0, all_of)
    assert found == (first, second)
    # It is still the same process.
    found = await_workers(client, plan, without({second: before[second]}), 0.0, all_of)
    assert found == (first, third)
    both = {second: before[second], third: before[third]}
    assert await_workers(client, plan, without(both), 0.0, all_of) == (first,)


def test_a_spare_worker_with_another_version_is_left_where_it_is(cluster):
    def set_version(version):
        import skdistmlp

        before, skdistmlp.__version__ = skdistmlp.__version__, version
        return before

    # A new client, which has not asked any worker yet.
    with Client(cluster, set_as_default=False) as client:
        first, second, third = client.nthreads()
        plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
        gone = {second: processes_of(client)[second]}
        version = client.run(set_version, "0.0.1", workers=[third])[third]
        try:
            assert await_workers(client, plan, without(gone), 0.0, all_of) == (first,)
        finally:
            client.run(set_version, version, workers=[third])
        assert await_workers(client, plan, without(gone), 0.0, all_of) == (first, third)


def test_a_spare_worker_that_does_not_answer_is_left_where_it_is(client, monkeypatch):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    gone = {second: processes_of(client)[second]}

    def never(client, workers, check):
        assert list(workers) == [third]
        while True:
            check()

    monkeypatch.setattr(replacement, "PING_ANSWER_S", 0.1)
    monkeypatch.setattr(replacement, "check_versions", never)
    found = bounded(await_workers, client, plan, without(gone), 0.0, all_of)
    assert found == (first,)


def test_a_spare_worker_of_another_fit_is_taken_if_nobody_else_is_left(client):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    processes = processes_of(client)

    gone = {second: processes[second]}
    assert await_workers(client, plan, without(gone), 0.0, none_of) == (first,)
    gone[first] = processes[first]
    assert await_workers(client, plan, without(gone), 0.0, none_of) == (third,)


def test_of_workers_of_other_fits_those_of_fewest_are_taken(client):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first], StepCost.of_step(10))
    gone = {first: processes_of(client)[first]}
    with WorkerShare(client) as share:
        share.share([second])
        assert await_workers(client, plan, without(gone), 0.0, none_of) == (third,)


@pytest.mark.parametrize("status", ["closing_gracefully", "closing"])
def test_a_worker_that_is_being_retired_is_of_use_once_that_is_refused(
    client, monkeypatch, status
):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    known = known_workers(client)
    monkeypatch.setattr(replacement, "known_workers", lambda _: known)
    known[first]["status"] = status
    assert await_workers(client, plan, without({}), 0.0, all_of) == (third, second)
    del known[third]
    assert await_workers(client, plan, without({}), 0.0, all_of) == (second,)
    left = known.pop(first)
    assert await_workers(client, plan, without({}), 0.0, all_of) == (second,)
    known[first] = left | {"status": "running"}
    assert await_workers(client, plan, without({}), 0.0, all_of) == (first, second)


@pytest.mark.parametrize(("engine", "n_replicas"), [("peers", 2), ("futures", 1)])
def test_fewer_workers_share_the_network_as_the_engine_can(client, engine, n_replicas):
    workers = tuple(client.nthreads())
    job, dataset = job_of("adam"), dataset_of("adam")
    units, cost = job.network.layer_units, cost_of_training(job, dataset)
    plan = plan_training(units, engine, workers, cost)
    plan = replace(plan, reason="why")
    plan = plan_on(client, plan, workers[:2], job, dataset, MODULE)
    assert (plan.engine, plan.workers) == (engine, workers[:2])
    assert plan.n_replicas <= n_replicas
    assert plan.reason == "1 worker fewer than before (why)"
    same = plan_on(client, plan, workers[1:], job, dataset, MODULE)
    assert same == replace(plan, workers=workers[1:])


@pytest.mark.parametrize("loads", [False, True])
def test_fewer_workers_need_room_for_compiled_code_too(client, monkeypatch, loads):
    """As in the first plan, by all steps of the fit: some workers have counted them."""
    workers, job, dataset = tuple(client.nthreads()), job_of("adam"), dataset_of("adam")
    units, cost = job.network.layer_units, cost_of_training(job, dataset)
    before = plan_training(units, "peers", workers, cost)
    resumed = replace(
        job, initial=replace(job.initial, progress=Progress(None, 0.01, 3))
    )
    n_steps, trial_of = [], replacement.Trial.of

    def trial(*args):
        n_steps.append(args[-1])
        return replace(trial_of(*args), runs_compiled=loads)

    def on_two():
        return plan_on(client, before, workers[:2], resumed, dataset, MODULE)

    monkeypatch.setattr(replacement.Trial, "of", trial)
    monkeypatch.setattr(loaded, "answers_in_time", lambda *_: {})
    with_room = on_two()
    limit = LOADED_BYTES + max(with_room.bytes_needed) - 1
    memory = dict.fromkeys(workers, WorkerMemory(limit))
    monkeypatch.setattr(replacement, "worker_memory", lambda *_: memory)
    assert (on_two().bytes_needed == with_room.bytes_needed) is not loads
    assert {*n_steps} == {FitLength.of(job, dataset).total}


MODULE = "skdistmlp.cluster.peers.worker"


def found_by(client, plan, ranks, abandoned, spares=all_of):
    known = known_workers(client)
    return replacements(client, plan, ranks, abandoned, spares, known)


def test_replacements_are_those_that_a_fit_would_find(client):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    nobody = AbandonedWorkers()
    assert found_by(client, plan, [1], nobody) == {1: third}
    found = found_by(client, plan, [0, 1], nobody)
    assert tuple(found.values()) == (third,)
    assert found_by(client, plan, [1], nobody, none_of) == {}
    gone = without({third: processes_of(client)[third]})
    assert found_by(client, plan, [1], gone) == {}


@pytest.fixture
def memory(monkeypatch):
    """Memory limits of workers, by address, of whom none takes or frees anything."""
    limits = {}

    def known(_known, workers):
        return {w: WorkerMemory(limits[w]) for w in workers if w in limits}

    def answers(_client, workers, *_):
        return dict.fromkeys(workers, (1.0, 0))

    monkeypatch.setattr(replacement, "memory_of", known)
    monkeypatch.setattr(replacement, "answers_in_time", answers)
    return limits


def test_a_spare_worker_with_too_little_memory_is_left_where_it_is(client, memory):
    first, small, large = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first], StepCost.of_step(10))
    gone = {first: processes_of(client)[first]}
    memory.update({small: plan.bytes_held[0] - 1, large: plan.bytes_held[0]})
    assert await_workers(client, plan, without(gone), 0.0, all_of) == (large,)
    gone[large] = processes_of(client)[large]
    assert await_workers(client, plan, without(gone), 0.0, all_of) == ()
    assert found_by(client, plan, [0], without(gone)) == {}
    # Without a limit.
    memory.clear()
    assert await_workers(client, plan, without(gone), 0.0, all_of) == (small,)


def test_the_largest_shard_takes_the_largest_worker(client, memory):
    first, small, large = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", ["a", "b"], StepCost.of_step(10))
    gone = without({first: processes_of(client)[first]})
    for held in ((100, 10), (10, 100)):
        plan = replace(plan, bytes_held=held)
        memory.update({small: 10, large: 100})
        expected = {held.index(10): small, held.index(100): large}
        assert found_by(client, plan, [0, 1], gone) == expected
        memory[large] = 99
        expected = {held.index(10): small}
        assert found_by(client, plan, [0, 1], gone) == expected


def test_a_worker_that_has_freed_memory_since_is_of_use(client, monkeypatch):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    limit = 10**12

    def full(_known, workers):
        return {worker: WorkerMemory(limit, taken=limit) for worker in workers}

    monkeypatch.setattr(replacement, "memory_of", full)
    assert found_by(client, plan, [1], without({})) == {1: third}


def test_a_worker_that_has_less_memory_than_at_its_last_heartbeat_is_of_no_use(
    client, monkeypatch
):
    """Once it has imported what a fit takes; and an error about memory ends the fit."""
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    plan = replace(plan, bytes_held=(10**6, 10**6))
    limit = max(plan.bytes_held)
    asked = []

    def empty(_known, workers):
        return {worker: WorkerMemory(limit) for worker in workers}

    def answers(client, workers, function, module, trim):
        asked.append((*workers, module, trim))
        return answers_in_time(client, workers, function, module, trim)

    monkeypatch.setattr(replacement, "memory_of", empty)
    monkeypatch.setattr(replacement, "answers_in_time", answers)
    spares = replace(all_of, module="skdistmlp.cluster.peers.worker")
    gone = without({second: processes_of(client)[second]})
    assert await_workers(client, plan, gone, 0.0, spares) == (first,)
    assert asked == [(third, spares.module, trim) for trim in (False, True)]


def test_a_worker_that_does_not_say_its_memory_in_time_is_asked_again(
    client, memory, monkeypatch
):
    """One that has just started does not answer while it imports the package."""
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    memory[third] = max(plan.bytes_held)
    late = [{third: (1.0, 0)}, {}, {}, {}]
    monkeypatch.setattr(replacement, "answers_in_time", lambda *_: late.pop())
    gone = without({second: processes_of(client)[second]})
    assert await_workers(client, plan, gone, WITHIN_S, all_of) == (first, third)
    # Or not any more, where there is no other look: then its heartbeat counts.
    late[:] = [{}, {}]
    assert await_workers(client, plan, gone, 0.0, all_of) == (first, third)


def test_workers_that_another_fit_holds_have_room_once_it_has_ended(
    client, monkeypatch
):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    limit = max(plan.bytes_held)

    def full(_known, workers):
        return {worker: WorkerMemory(limit, taken=limit) for worker in workers}

    monkeypatch.setattr(replacement, "memory_of", full)
    processes = processes_of(client)
    gone = {worker: processes[worker] for worker in (first, second)}
    assert await_workers(client, plan, without(gone), 0.0, none_of) == (third,)


def recovered(job, before, plan, processes=None, processes_now=None, arithmetic=None):
    return recovery_of(
        Departure("lost", ("a",), "it was lost"),
        1.0,
        2.0,
        before,
        plan,
        job,
        dataset_of("adam"),
        processes or {},
        processes_now or {},
        arithmetic or {},
        (),
    )


def test_an_account_says_whether_bits_are_the_same():
    cost, units = StepCost.of_step(10), job_of("adam").network.layer_units
    before = plan_training(units, "peers", ["a", "b"], cost)
    moved = replace(before, workers=("a", "c"))
    job = job_of("adam")
    found = recovered(job, before, moved)
    assert (found.same_bits, found.restarts, found.n_iter) == (True, False, 0)
    fewer = plan_training(units, "peers", ["a"], cost)
    found = recovered(job, before, fewer)
    assert not found.same_bits
    # On the same worker from then on, which is not what it began with.
    fewer = replace(fewer, recoveries=(found,))
    assert not recovered(job, fewer, fewer).same_bits
    iterate = replace(job.initial, progress=LbfgsProgress(7, 0.5))
    found = recovered(replace(job, initial=iterate), before, moved)
    assert (found.same_bits, found.restarts, found.n_iter) == (False, True, 7)
    # Nothing is left of what was trained.
    begun = replace(job, initial=replace(job.initial, progress=None))
    assert recovered(begun, before, moved).same_bits


def test_bits_are_not_the_same_on_another_number_of_threads():
    cost, units = StepCost.of_step(10), job_of("adam").network.layer_units
    before = plan_training(units, "peers", ["a", "b"], cost)
    moved, job = replace(before, workers=("a", "c")), job_of("adam")
    earlier = {"a": Process("1", 1), "b": Process("2", 1)}
    now = {"a": Process("1", 1), "c": Process("3", 1)}
    assert recovered(job, before, moved, earlier, now).same_bits
    now["c"] = Process("3", 2)
    assert not recovered(job, before, moved, earlier, now).same_bits
    # A worker that was restarted at its address.
    assert not recovered(
        job, before, before, earlier, earlier | now | {"b": now["c"]}
    ).same_bits


def test_bits_are_not_the_same_where_they_are_computed_otherwise():
    cost, units = StepCost.of_step(10), job_of("adam").network.layer_units
    before = plan_training(units, "peers", ["a", "b"], cost)
    moved, job = replace(before, workers=("a", "c")), job_of("adam")
    earlier = {"a": Process("1", 1), "b": Process("2", 1)}
    now = {"a": Process("1", 1), "c": Process("3", 1)}
    here = arithmetic_here()
    known = dict.fromkeys([("a", "1"), ("b", "2"), ("c", "3")], here)
    assert recovered(job, before, moved, earlier, now, known).same_bits
    for other in ({"numpy": "2.99"}, {"blas": ("mkl",)}, {"instructions": ()}):
        known["c", "3"] = here._replace(**other)
        assert not recovered(job, before, moved, earlier, now, known).same_bits
        # Another process was at its address.
        known["c", "4"] = known.pop(("c", "3"))
        assert recovered(job, before, moved, earlier, now, known).same_bits


def test_a_worker_with_as_many_threads_as_the_lost_one_is_taken_first(
    client, monkeypatch
):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first], StepCost.of_step(10))
    known = known_workers(client)
    known[second]["nthreads"] = 2
    gone = AbandonedWorkers()
    lost = Departure("lost", (first,), "it was lost")
    gone.add(lost, processes_of(client), handed_over=False)
    del known[first]
    assert replacements(client, plan, [0], gone, all_of, known) == {0: third}
    # Or another, if there is none.
    del known[third]
    assert replacements(client, plan, [0], gone, all_of, known) == {0: second}


def test_threads_of_workers_that_no_error_has_named_count_too(client):
    first, _, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", ["gone", "lost"], StepCost.of_step(10))
    known = known_workers(client)
    known[third]["nthreads"] = 2
    before = processes_of(client)
    before["gone"], before["lost"] = Process("1", 2), Process("2", 1)
    gone = AbandonedWorkers()
    gone.add(Departure("lost", ("lost",), "it was lost"), before, handed_over=False)
    found = replacements(client, plan, [0, 1], gone, all_of, known)
    assert found == {0: third, 1: first}


def recovered_from(kind, named, workers, retired=()):
    cost, units = StepCost.of_step(10), job_of("adam").network.layer_units
    before = plan_training(units, "peers", ["a", "b", "c"], cost)
    plan = plan_training(units, "peers", workers, cost)
    departure = Departure(kind, named, "it was left")
    job, dataset = job_of("adam"), dataset_of("adam")
    return recovery_of(
        departure, 1.0, 2.0, before, plan, job, dataset, {}, {}, {}, retired
    )


def test_an_account_names_all_workers_that_were_left():
    found = recovered_from("lost", ("d", "b"), ["a", "e", "f"])
    assert (found.lost, found.kinds) == (("b", "c", "d"), ())
    found = recovered_from("lost", ("b",), ["a"])
    assert (found.lost, found.kinds) == (("b", "c"), ())
    # One that has resumed meanwhile.
    found = recovered_from("paused", ("b",), ["a", "b", "e"])
    assert (found.lost, found.kinds) == (("b", "c"), ("paused", "lost"))
    # A move has its own plan.
    found = recovered_from("moved", ("b",), ["a", "e"])
    assert (found.lost, found.kinds) == (("b",), ())


def test_an_account_tells_workers_that_were_retired_meanwhile_from_lost_ones():
    found = recovered_from("lost", ("c",), ["a"], retired=["b"])
    assert (found.lost, found.kinds) == (("b", "c"), ("retired", "lost"))
    found = recovered_from("retired", ("c",), ["a"], retired=["b"])
    assert (found.lost, found.kinds) == (("b", "c"), ())


def test_the_scheduler_is_asked_for_all_workers_once_per_look(client, monkeypatch):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    asked = []

    def ask(client):
        asked.append(client)
        return known_workers(client)

    monkeypatch.setattr(replacement, "known_workers", ask)
    gone = without({second: processes_of(client)[second]})
    asked.clear()
    assert await_workers(client, plan, gone, 0.0, all_of) == (first, third)
    assert asked == [client]


def test_a_worker_that_hangs_is_left_although_its_version_is_known(client, monkeypatch):
    """Of the plan or outside of it."""
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    assert await_workers(client, plan, without({}), 0.0, all_of) == (first, second)
    hangs = [second]
    monkeypatch.setattr(
        replacement, "silent_workers", lambda _, asked: [*{*asked} & {*hangs}]
    )
    assert await_workers(client, plan, without({}), 0.0, all_of) == (first, third)
    hangs.append(third)
    assert await_workers(client, plan, without({}), 0.0, all_of) == (first,)
    hangs.remove(second)
    assert await_workers(client, plan, without({}), 0.0, all_of) == (first, second)


def test_fits_that_lose_workers_at_once_take_different_ones():
    """Nor does one take what is left of the other, which has no reservation then."""
    with (
        LocalCluster(
            n_workers=6, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        WorkerClaim(client) as one,
        WorkerClaim(client) as other,
    ):
        a, b, c, d, e, f = client.nthreads()
        processes = processes_of(client)
        gone = without({b: processes[b], d: processes[d]})
        found = []
        claims = {one: (a, b), other: (c, d)}
        for claim, workers in claims.items():
            assert claim.claim((), workers)
        for claim, workers in claims.items():
            plan = plan_training((4, 9, 1), "peers", workers, StepCost.of_step(10))
            spares = Spares(claim.unclaimed, claim.claim)
            found.append(await_workers(client, plan, gone, 0.0, spares))
        assert found == [(a, e), (c, f)]


def test_a_worker_that_another_fit_was_faster_to_claim_is_not_taken(client):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    gone = without({second: processes_of(client)[second]})
    free, claimed = [[], [third]], []

    def claim(found, workers):
        claimed.append((found, workers))
        return not found

    spares = Spares(lambda _: free.pop(), claim)
    assert await_workers(client, plan, gone, 0.0, spares) == (first,)
    assert claimed == [((third,), (first, third)), ((), (first,))]
