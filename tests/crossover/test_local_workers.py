"""Workers on this machine to measure on."""

import signal

import dask

from skdistmlp.crossover.local_workers import (
    QUIET_WORKERS,
    shield_children_from_interrupts,
    single_threaded_workers,
)


def test_workers_have_one_thread_and_quiet_settings():
    with single_threaded_workers(2) as client:
        assert list(client.nthreads().values()) == [1, 1]
        for name, value in QUIET_WORKERS.items():
            found = client.run(dask.config.get, name)
            assert list(found.values()) == [value, value]
    assert client.status == "closed"
    assert not any(dask.config.get(name) == v for name, v in QUIET_WORKERS.items())


def test_children_are_shielded_only_while_they_start():
    def blocked():
        return signal.pthread_sigmask(signal.SIG_BLOCK, [])

    before = blocked()
    with shield_children_from_interrupts():
        assert blocked() == before | {signal.SIGINT}
    assert blocked() == before
