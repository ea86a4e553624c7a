"""Workers that a fit takes for itself, so that two fits do not wait for each other."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from distributed import Client, Semaphore

LOOK_UP_S = 2.0
"""Seconds between looks at the list of workers while others hold them."""


@contextmanager
def gang(
    client: Client, workers: Sequence[str], check: Callable[[], None]
) -> Iterator[None]:
    """Hold the leases of workers: one fit of shards that wait for each other on each.

    Everybody takes them in the same order, so that of fits that want the same
    workers one gets them all; those who wait for a worker get it in the order in
    which they came. A lease whose holder dies ends by itself, after Dask's
    ``distributed.scheduler.locks.lease-timeout``.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses.
    check : callable
        Called now and then while waiting; ends the wait if it raises.
    """
    loop = client.loop
    assert loop is not None, "a connected client has a loop"
    with ExitStack() as held:
        for worker in sorted(set(workers)):
            lease = Semaphore(
                1,
                name=f"skdistmlp-{worker}",
                scheduler_rpc=client.scheduler,
                loop=loop,
            )
            # Else it would go on refreshing leases that were given back.
            held.callback(loop.add_callback, lease.refresh_callback.stop)
            _acquire(lease, check)
            held.callback(lease.release)
        yield


def _acquire(lease: Semaphore, check: Callable[[], None]) -> None:
    """Wait for a lease without losing the place in the queue, as a timeout would."""

    async def acquired() -> None:
        await lease.acquire()

    async def given_back() -> None:
        await lease.release()

    loop = lease.loop.asyncio_loop
    waiting = asyncio.run_coroutine_threadsafe(acquired(), loop)
    try:
        while True:
            try:
                return waiting.result(LOOK_UP_S)
            except TimeoutError:
                check()
    except BaseException:
        # The scheduler knows of no way to leave the queue.
        waiting.add_done_callback(
            lambda ended: (
                ended.exception()
                or asyncio.run_coroutine_threadsafe(given_back(), loop)
            )
        )
        raise
