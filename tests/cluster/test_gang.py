"""Leases of workers: all or none, in the order of arrival, and back again."""

from itertools import pairwise

import pytest

from skdistmlp.cluster import gang as module
from skdistmlp.cluster.gang import gang
from tests.cluster.support import bounded, in_thread, wait_until


def goes_on():
    """Find nothing that ends the wait."""


@pytest.fixture
def workers(client):
    return tuple(client.nthreads())


def leases(client):
    """Return how many wait for leases, and how many hold one, by worker."""

    def look(dask_scheduler):
        known = dask_scheduler.extensions["semaphores"]
        return (
            {name: n for name, n in known.metrics["pending"].items() if n},
            {name: len(ids) for name, ids in known.leases.items() if ids},
        )

    return client.run_on_scheduler(look)


def n_waiting(client):
    return sum(leases(client)[0].values())


def test_who_came_first_is_first(client, workers, monkeypatch):
    """Whatever the number of looks at the workers meanwhile."""
    monkeypatch.setattr(module, "LOOK_UP_S", 0.01)
    order, looks = [], []

    def take(number):
        with gang(client, workers, lambda: looks.append(number)):
            order.append(number)

    with gang(client, workers, goes_on):
        waiting = []
        for number in range(6):
            waiting.append(in_thread(take, number))
            wait_until(lambda n=number: n_waiting(client) == n + 1, "it is queued")
        wait_until(lambda: set(looks) == set(range(6)), "all have looked")
    for one in waiting:
        bounded(one.result)
    assert order == list(range(6))
    assert leases(client) == ({}, {})


def test_who_holds_some_of_the_workers_gets_the_others(client, workers):
    """Rings of fits that want two workers each."""
    held = []

    def take(pair):
        for _ in range(10):
            with gang(client, pair, goes_on):
                held.append(pair)

    ring = [*pairwise(workers), (workers[-1], workers[0])]
    for one in [in_thread(take, pair) for pair in ring * 2]:
        bounded(one.result)
    assert len(held) == 2 * 10 * len(workers)


def test_who_leaves_the_queue_is_in_nobodys_way(client, workers, monkeypatch):
    monkeypatch.setattr(module, "LOOK_UP_S", 0.01)

    def leave():
        raise KeyboardInterrupt

    def take():
        with gang(client, workers, goes_on):
            return leases(client)

    with gang(client, workers, goes_on):
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt), gang(client, workers, leave):
                pytest.fail("nobody may be here")
        after = in_thread(take)
        wait_until(lambda: n_waiting(client) == 4, "three left, and one has come")
    pending, held = bounded(after.result)
    assert pending == {}
    assert held == {f"skdistmlp-{worker}": 1 for worker in workers}


def test_a_fit_that_fails_gives_its_workers_back(client, workers):
    with pytest.raises(ZeroDivisionError), gang(client, workers, goes_on):
        raise ZeroDivisionError
    assert leases(client) == ({}, {})
