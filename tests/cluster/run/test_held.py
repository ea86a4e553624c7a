"""Futures of a run, released when it ends."""

import gc
import threading

import pytest

from skdistmlp.cluster.run import held as held_module
from skdistmlp.cluster.run.held import HeldFutures


class Future:
    """Stands for a future; counts its releases."""

    def __init__(self, is_done=False):
        self.n_released = 0
        self._is_done = is_done

    def done(self):
        return self._is_done

    def release(self):
        self.n_released += 1


@pytest.fixture(autouse=True)
def no_client(monkeypatch):
    """These futures have no client, which `release_futures` asks about restarts."""

    def release(futures):
        for future in list(futures):
            future.release()

    monkeypatch.setattr(held_module, "release_futures", release)


def test_closing_releases_every_future_that_somebody_holds():
    held, futures = HeldFutures(), [Future(), Future()]
    held.add([(futures[0], 0), (futures[1], 1)])
    assert not held.is_closed
    assert [future.n_released for future in futures] == [0, 0]
    held.close()
    assert held.is_closed
    assert [future.n_released for future in futures] == [1, 1]


def test_a_future_that_arrives_after_the_end_is_released_at_once():
    held, late = HeldFutures(), Future()
    held.close()
    held.add([(late, 0)])
    assert late.n_released == 1


def test_futures_know_the_rank_of_their_shard():
    held, futures = HeldFutures(), [Future(), Future()]
    held.add(zip(futures, (4, 2), strict=True))
    assert [held.rank_of(future) for future in futures] == [4, 2]
    with pytest.raises(KeyError):
        held.rank_of(Future())


def test_pending_are_those_that_are_not_done():
    held, futures = HeldFutures(), [Future(), Future(is_done=True)]
    held.add([(futures[0], 0), (futures[1], 1)])
    assert held.pending() == futures[:1]


def test_a_future_that_nobody_holds_is_not_kept_alive():
    held, dropped = HeldFutures(), Future()
    held.add([(dropped, 0)])
    released = []
    dropped.release = lambda: released.append(1)
    del dropped
    gc.collect()
    held.close()
    assert not released


def test_a_run_cannot_be_closed_while_it_has_to_stay_open():
    held = HeldFutures()
    closing = threading.Thread(target=held.close)
    with held.staying_open() as is_open:
        assert is_open
        closing.start()
        closing.join(0.05)
        assert closing.is_alive()
        assert not held.is_closed
    closing.join(10)
    with held.staying_open() as is_open:
        assert not is_open
