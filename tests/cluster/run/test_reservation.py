"""Reservations of workers: all or nothing, in the order of arrival."""

import asyncio
import signal
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from itertools import pairwise
from threading import Barrier

import dask.array as da
import pytest
from distributed import Client, LocalCluster, wait

from skdistmlp.cluster._dask import CommClosedError, call_scheduler
from skdistmlp.cluster.futures import recovery as futures
from skdistmlp.cluster.futures.driver import open_futures_network
from skdistmlp.cluster.peers import driver as peers
from skdistmlp.cluster.run import reservation, worker_queue
from skdistmlp.cluster.run.reservation import (
    WorkerClaim,
    WorkerShare,
    borrow_workers,
    choose_free_workers,
    reserve_workers,
    unclaimed_workers,
    withdraw_choice,
)
from skdistmlp.exceptions import ClusterError
from tests.cluster.dask_processes import DaskProcesses
from tests.cluster.peers.test_driver import classifier, steps_taken
from tests.cluster.support import WITHIN_S, bounded, in_thread, wait_until


def goes_on():
    """Never end the wait."""


@pytest.fixture
def workers(client):
    return tuple(client.nthreads())


def places(client):
    """Return the workers that each queued fit has requested, in order."""

    def look(dask_scheduler):
        queue = dask_scheduler.plugins.get("skdistmlp-worker-queue")
        return [set(p.workers) for p in queue.reservations.values()] if queue else []

    return client.run_on_scheduler(look)


def choices(client):
    """Return the workers of each choice that a fit has not arrived with."""

    def look(dask_scheduler):
        queue = dask_scheduler.plugins.get("skdistmlp-worker-queue")
        return [set(choice.workers) for choice in queue.intentions] if queue else []

    return client.run_on_scheduler(look)


def forget_choices(client):
    """Let no choice count that a fit has not arrived with."""

    def forget(dask_scheduler):
        queue = dask_scheduler.plugins.get("skdistmlp-worker-queue")
        if queue is not None:
            queue.intentions.clear()

    client.run_on_scheduler(forget)


def empty_the_queue(dask_scheduler):
    dask_scheduler.plugins["skdistmlp-worker-queue"].reservations.clear()


@contextmanager
def sharing(client, workers):
    """Share workers, as a fit by tasks that ends well."""
    with WorkerShare(client) as share:
        share.share(workers)
        yield
        share.give_up()


@pytest.mark.parametrize(
    "ask",
    [
        lambda *args: choose_free_workers(*args, 1, {}),
        lambda client, workers: WorkerShare(client).share(workers),
    ],
    ids=["choose", "share"],
)
def test_a_connection_that_breaks_meanwhile_is_a_cluster_error(
    client, workers, monkeypatch, ask
):
    async def fail(*_, **__):
        raise CommClosedError("in <TCP (closed)>: stream is closed")

    monkeypatch.setattr(reservation, "call_scheduler", fail)
    with pytest.raises(
        ClusterError, match="broke while asking which workers are free; it is there"
    ):
        ask(client, workers)


def test_waiting_fits_queue_again_at_a_restarted_scheduler(client, workers):
    """Another scheduler at the same address, with the same workers, has no queue."""

    def forget(dask_scheduler):
        del dask_scheduler.plugins["skdistmlp-worker-queue"]
        del dask_scheduler.handlers["skdistmlp_reserve"]

    def take():
        with reserve_workers(client, workers, goes_on):
            return True

    with reserve_workers(client, workers, goes_on) as check_held:
        waiting = in_thread(take)
        wait_until(lambda: len(places(client)) == 2, "it is queued")
        client.run_on_scheduler(forget)
        assert bounded(waiting.result)
        with pytest.raises(ClusterError, match="this fit has lost its workers"):
            check_held()


def test_a_client_that_is_being_closed_is_the_cause(cluster, client, workers):
    """The scheduler hears of it before a question of the fit is answered."""
    with (
        Client(cluster, set_as_default=False) as other,
        reserve_workers(other, workers, goes_on) as check_held,
    ):
        client.run_on_scheduler(empty_the_queue)
        other.status = "closing"
        try:
            with pytest.raises(CancelledError):
                check_held()
        finally:
            other.status = "running"


def test_reservations_are_granted_in_order(client, workers):
    order = []

    def take(number):
        with reserve_workers(client, workers, goes_on):
            order.append(number)

    with reserve_workers(client, workers, goes_on):
        waiting = []
        for number in range(6):
            waiting.append(in_thread(take, number))
            wait_until(lambda n=number: len(places(client)) == n + 2, "it is queued")
    for one in waiting:
        bounded(one.result)
    assert order == list(range(6))
    assert places(client) == []


def test_reservations_are_all_or_nothing_and_never_overtaken(client, workers):
    """A fit for all workers waits for the first; a third waits behind it."""
    first, _, third = workers
    order = []

    def take(name, wanted):
        with reserve_workers(client, wanted, goes_on):
            order.append(name)

    with reserve_workers(client, [first], goes_on):
        everything = in_thread(take, "all", workers)
        wait_until(lambda: len(places(client)) == 2, "it is queued")
        other = in_thread(take, "third", [third])
        wait_until(lambda: len(places(client)) == 3, "it is queued")
        assert order == []
        order.append("first")
    bounded(everything.result)
    bounded(other.result)
    assert order == ["first", "all", "third"]


def test_fits_on_different_workers_do_not_wait(client, workers):
    with (
        reserve_workers(client, workers[:1], goes_on),
        reserve_workers(client, workers[1:], goes_on),
    ):
        assert places(client) == [{workers[0]}, set(workers[1:])]


def test_overlapping_reservations_do_not_deadlock(client, workers):
    held = []

    def take(pair):
        for _ in range(10):
            with reserve_workers(client, pair, goes_on):
                held.append(pair)

    ring = [*pairwise(workers), (workers[-1], workers[0])]
    for one in [in_thread(take, pair) for pair in ring * 2]:
        bounded(one.result)
    assert len(held) == 2 * 10 * len(workers)


def test_a_fit_that_leaves_the_queue_blocks_nobody(client, workers):
    def leave():
        raise KeyboardInterrupt

    with reserve_workers(client, workers, goes_on):
        with pytest.raises(KeyboardInterrupt), reserve_workers(client, workers, leave):
            pytest.fail("nobody may be here")
        assert len(places(client)) == 1
    with pytest.raises(ZeroDivisionError), reserve_workers(client, workers, goes_on):
        raise ZeroDivisionError
    assert places(client) == []


@pytest.mark.parametrize("holds", [True, False], ids=["holding", "queued"])
def test_a_lost_client_loses_its_reservation(client, workers, holds):
    with Client(client.scheduler.address, set_as_default=False) as other:
        if holds:
            gone = reserve_workers(other, workers, goes_on)
            gone.__enter__()
        else:
            before = reserve_workers(client, workers, goes_on)
            before.__enter__()
            in_thread(lambda: reserve_workers(other, workers, goes_on).__enter__())
        wait_until(lambda: len(places(client)) == 1 + (not holds), "it is there")
    wait_until(lambda: len(places(client)) == (not holds), "its place is free")
    if not holds:
        before.__exit__(None, None, None)
    bounded(reserve_workers(client, workers, goes_on).__enter__)
    client.run_on_scheduler(empty_the_queue)


@pytest.mark.parametrize(
    "sign",
    [signal.SIGKILL, signal.SIGINT],
)
@pytest.mark.slow
def test_dead_processes_block_nobody(tmp_path, sign):
    """One that trains, and two that wait for it."""
    with (
        DaskProcesses(tmp_path, n_workers=2) as processes,
        Client(processes.address, set_as_default=False) as client,
        processes.endless_client() as one,
    ):
        wait_until(lambda: steps_taken(client), "it trains")
        with processes.endless_client() as two, processes.endless_client() as three:
            wait_until(lambda: len(places(client)) == 3, "both are queued")
            for process in (two, three, one):
                process.send_signal(sign)
                # A single Ctrl-C in a training fit keeps the parameters.
                wait_until(
                    lambda p=process: (
                        p.poll() is not None or p.send_signal(signal.SIGINT)
                    ),
                    "it has ended",
                )
        wait_until(lambda: places(client) == [], "nobody is there")


def test_a_suspended_client_loses_its_reservation(client, workers):
    with (
        Client(client.scheduler.address, set_as_default=False) as other,
        reserve_workers(other, workers, goes_on) as check_held,
    ):
        check_held()
        name = other.id

        def stand_still(dask_scheduler):
            dask_scheduler.plugins["skdistmlp-worker-queue"].awake_since = float("-inf")
            dask_scheduler.clients[name].last_seen -= reservation.SILENT_CLIENT_S + 1

        client.run_on_scheduler(stand_still)
        lost = pytest.raises(ClusterError, match="has lost its workers")
        with reserve_workers(client, workers, goes_on), lost:
            check_held()


@pytest.mark.parametrize("number", [0, 1])
def test_a_fit_that_lost_its_reservation_starts_no_round(
    client, digits, monkeypatch, number
):
    """Others may have its workers; two fits on them would deadlock."""
    monkeypatch.setattr(peers, "ROUND_S", 0.0)
    start, started = peers.PeersRun._start_round, []

    def lose_place_and_start(run, round_number):
        if round_number == number:
            client.run_on_scheduler(empty_the_queue)
        futures = start(run, round_number)
        started.append(round_number)
        return futures

    monkeypatch.setattr(peers.PeersRun, "_start_round", lose_place_and_start)
    with pytest.raises(ClusterError, match="has lost its workers"):
        bounded(classifier(client).fit, *digits)
    assert started == list(range(number))


def test_a_client_with_rare_heartbeats_gets_more_time(client, workers):
    """The scheduler itself tells its clients how often to be heard."""
    with Client(
        client.scheduler.address, set_as_default=False, heartbeat_interval=60_000
    ) as rare:
        assert reservation.heartbeat_s(rare) == 60
        with (
            reserve_workers(rare, workers, goes_on),
            reserve_workers(client, (), goes_on),
        ):
            given = client.run_on_scheduler(
                lambda dask_scheduler: [
                    place.silent_s
                    for place in dask_scheduler.plugins[
                        "skdistmlp-worker-queue"
                    ].reservations.values()
                ]
            )
    assert given == [240, reservation.SILENT_CLIENT_S]


@pytest.fixture
def no_intentions(client):
    forget_choices(client)
    yield
    forget_choices(client)


@pytest.mark.usefixtures("no_intentions")
def test_fits_choose_workers_that_fewest_others_hold_or_want(client, workers):
    first, second, third = workers
    with reserve_workers(client, [first], goes_on):
        assert choose_free_workers(client, workers, 1, {}) == (second,)
        # Nobody has arrived with the second yet, but somebody will.
        assert choose_free_workers(client, workers, 1, {}) == (third,)
        assert choose_free_workers(client, workers, 2, {}) == (first, second)


@pytest.mark.usefixtures("no_intentions")
def test_of_equally_free_workers_those_with_most_rows_are_chosen(client, workers):
    first, second, third = workers
    held = {second: 10, third: 20}
    with reserve_workers(client, [third], goes_on):
        assert choose_free_workers(client, workers, 1, held, False) == (second,)
        assert choose_free_workers(client, workers, 2, held, False) == (first, second)
    # Which worker has which shard does not depend on it.
    assert choose_free_workers(client, workers, 2, held) == (second, third)


@pytest.mark.usefixtures("no_intentions")
@pytest.mark.parametrize("engine", ["peers", "auto"])
def test_a_fit_goes_to_the_worker_that_has_its_rows(client, workers, digits, engine):
    X, y = digits
    for number, worker in enumerate(workers[::-1]):
        # Others than before, whose keys the scheduler may not have forgotten yet.
        rows = da.from_array(X + number, chunks=(100, -1))
        rows = client.persist(rows, workers=[worker])
        with client.as_current():
            wait(rows, WITHIN_S)
        clf = classifier(client, n_workers=1).set_params(engine=engine)
        with client.as_current():
            assert clf.plan_fit(rows, y).workers == (worker,)
        del rows


@pytest.mark.usefixtures("no_intentions")
def test_a_choice_counts_until_its_fit_arrives(client, workers):
    chosen = choose_free_workers(client, workers, 2, {})
    assert chosen == workers[:2]
    with reserve_workers(client, chosen, goes_on):
        pass
    assert choose_free_workers(client, workers, 2, {}) == chosen


@pytest.mark.usefixtures("no_intentions")
def test_a_choice_is_withdrawn_if_no_fit_will_arrive(client, workers):
    chosen = choose_free_workers(client, workers, 2, {})
    assert choices(client) == [{*chosen}]
    withdraw_choice(client, chosen)
    assert choices(client) == []
    with Client(client.scheduler.address, set_as_default=False) as gone:
        pass
    # A closed client has no choice left, and no error hides that of the plan.
    withdraw_choice(gone, chosen)


@pytest.mark.usefixtures("no_intentions")
def test_a_measurement_is_not_the_arrival_of_the_fit_that_it_is_for(client, workers):
    chosen = choose_free_workers(client, workers, 2, {})
    with borrow_workers(client, chosen, goes_on) as are_free:
        assert are_free
    assert choose_free_workers(client, workers, 1, {}) == workers[2:]


def test_borrowed_workers_are_free_and_given_back(client, workers):
    with borrow_workers(client, workers[:2], goes_on) as are_free:
        assert are_free
        assert places(client) == [set(workers[:2])]
        with borrow_workers(client, workers[1:], goes_on) as others_are_free:
            assert not others_are_free
            # Nobody waits behind what is not waited for.
            assert places(client) == [set(workers[:2])]
    assert places(client) == []
    with (
        reserve_workers(client, workers[:1], goes_on),
        borrow_workers(client, workers, goes_on) as are_free,
    ):
        assert not are_free


@pytest.mark.usefixtures("no_intentions")
def test_shared_workers_are_not_measured_and_are_chosen_last(client, workers):
    first, second, third = workers
    assert choose_free_workers(client, workers, 1, {}) == (first,)
    with sharing(client, [first]):
        # The choice has become this fit, so that it counts once.
        assert choose_free_workers(client, workers, 2, {}, False) == (second, third)
        with borrow_workers(client, workers[:2], goes_on) as are_free:
            assert not are_free
        with borrow_workers(client, workers[1:], goes_on) as are_free:
            assert are_free
        # Whoever reserves them, or takes one for another that was lost, need not wait:
        # but there, tasks would take time from its rounds.
        assert [*unclaimed_workers(client, workers)] == [second, third, first]
        assert [*WorkerClaim(client).unclaimed(workers[:2])] == [second, first]
        with reserve_workers(client, workers, goes_on), sharing(client, workers):
            assert places(client) == [set(workers)]
    with borrow_workers(client, workers, goes_on) as are_free:
        assert are_free


@pytest.mark.usefixtures("no_intentions")
def test_a_fit_claims_workers_until_it_ends(client, workers):
    first, second, third = workers
    with WorkerClaim(client) as one, WorkerClaim(client) as other:
        assert one.claim((), [first])
        assert [*one.unclaimed(workers)] == [*workers]
        assert [*other.unclaimed(workers)] == [second, third]
        # Fits that can choose take others.
        assert choose_free_workers(client, workers, 1, {}, False) == (second,)
        assert other.claim([second], [second])
        assert not one.claim([second], [first, second])
        # It may reserve what it claims, and is in nobody's way.
        with reserve_workers(client, workers, goes_on):
            pass
    assert [*unclaimed_workers(client, workers)] == [*workers]


def claims(client):
    """Return the workers of each claim."""

    def look(dask_scheduler):
        queue = dask_scheduler.plugins["skdistmlp-worker-queue"]
        return [set(claim.workers) for claim in queue.claims.values()]

    return client.run_on_scheduler(look)


@pytest.mark.usefixtures("no_intentions")
def test_dask_finds_no_worker_to_close_that_a_fit_needs(client, workers):
    def to_close(dask_scheduler):
        return dask_scheduler.workers_to_close(n=3)

    def look():
        return {*client.run_on_scheduler(to_close)}

    first, second, third = workers
    with WorkerClaim(client) as claim, WorkerShare(client) as share:
        assert claim.claim((), [first])
        share.share([second])
        assert look() == {third}
        with reserve_workers(client, [third], goes_on):
            assert look() == set()
        share.give_up()
        assert look() == {second, third}
    wait_until(lambda: look() == {*workers}, "all are given up")

    def is_interrupted():
        with WorkerClaim(client) as claim:
            assert claim.claim((), workers)
            assert look() == set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        is_interrupted()
    wait_until(lambda: look() == {*workers}, "all are given up")


def test_a_claim_that_the_queue_has_dropped_is_made_again(client, workers):
    def drop(dask_scheduler):
        dask_scheduler.plugins["skdistmlp-worker-queue"].claims.clear()

    with WorkerClaim(client) as claim:
        assert claim.claim((), workers)
        # As of a client that was silent for too long.
        client.run_on_scheduler(drop)
        assert claim.claim((), workers)
        assert claims(client) == [{*workers}]
    wait_until(lambda: claims(client) == [], "it is given up")


def test_a_claim_is_given_up_without_a_wait(client, workers, monkeypatch):
    """Of a scheduler that hangs, too: a fit that ends has waited for it before."""
    answers: Future[None] = Future()

    async def late(*arguments, **named):
        await asyncio.wrap_future(answers)
        return await call_scheduler(*arguments, **named)

    claim = WorkerClaim(client)
    assert claim.claim((), workers)
    monkeypatch.setattr(reservation, "LEAVE_QUEUE_S", 10 * WITHIN_S)
    monkeypatch.setattr(reservation, "call_scheduler", late)
    bounded(claim.__exit__)
    assert claims(client) == [{*workers}]
    answers.set_result(None)
    wait_until(lambda: claims(client) == [], "it is given up")


def test_a_lost_client_shares_no_workers(cluster, client, workers):
    with Client(cluster, set_as_default=False) as other:
        share = WorkerShare(other)
        share.share(workers)
        with borrow_workers(client, workers, goes_on) as are_free:
            assert not are_free
    with borrow_workers(client, workers, goes_on) as are_free:
        assert are_free
    share.__exit__(None, None, None)


@pytest.mark.usefixtures("no_intentions")
def test_fits_by_tasks_take_workers_of_their_own_that_nobody_measures(
    client, workers, digits, monkeypatch
):
    def borrow():
        for worker in workers[:2]:
            with borrow_workers(client, [worker], goes_on) as are_free:
                measured.append(are_free)

    def open_together(*args, **options):
        both.wait(WITHIN_S)
        return open_futures_network(*args, **options)

    def fit():
        clf = classifier(client, n_workers=1, max_iter=9, tol=1e9, n_iter_no_change=1)
        return bounded(clf.set_params(engine="futures").fit, *digits).plan_.workers

    measured, both = [], Barrier(2, borrow)
    monkeypatch.setattr(futures, "open_futures_network", open_together)
    fits = [in_thread(fit) for _ in range(2)]
    taken = {fit.result(WITHIN_S) for fit in fits}
    assert taken == {workers[:1], workers[1:2]}
    assert measured == [False, False]


@pytest.mark.usefixtures("no_intentions")
def test_a_choice_that_nobody_arrives_with_is_forgotten(client, workers, monkeypatch):
    # The scheduler runs in this process.
    monkeypatch.setattr(worker_queue, "INTENTION_S", 0.0)
    for _ in range(2):
        assert choose_free_workers(client, workers, 1, {}) == workers[:1]


def test_the_first_fit_of_a_scheduler_chooses_too():
    with (
        LocalCluster(
            n_workers=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as fresh,
    ):
        present = tuple(fresh.nthreads())
        assert choose_free_workers(fresh, present, 1, {}) == present[:1]
        assert choose_free_workers(fresh, present, 1, {}) == present[1:]


@pytest.mark.usefixtures("no_intentions")
def test_a_fit_of_one_worker_does_not_wait_for_another(client, workers, digits):
    with reserve_workers(client, workers[:1], goes_on):
        clf = classifier(client, n_workers=1, max_iter=20, tol=1e9, n_iter_no_change=1)
        bounded(clf.fit, *digits)
    assert clf.plan_.workers == (workers[1],)


@pytest.mark.usefixtures("no_intentions")
def test_a_plan_alone_takes_no_worker(client, workers, digits):
    clf = classifier(client, n_workers=1, max_iter=1)
    for _ in range(2):
        assert clf.plan_fit(*digits).workers == workers[:1]
