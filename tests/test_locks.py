"""Locks in forked processes."""

import os
import re
import threading
from importlib import import_module
from pathlib import Path

import pytest

import skdistmlp
from skdistmlp.locks import ForkSafeLock

OF_MODULES = {
    "skdistmlp.nn.compiled": "_LOCK",
    "skdistmlp.parallel.blas": "_LOCK",
    "skdistmlp.cluster.peers.measured": "_TABLES",
    "skdistmlp.cluster.peers.measurement": "_MEASURING",
    "skdistmlp.cluster.peers.messages": "_LOCK",
}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks"),
    # Python's own, of forks in processes with several threads.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def fails_in_child(check):
    """Fork, and return whether a check fails or raises there."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) != 0


@pytest.mark.parametrize("module", list(OF_MODULES))
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not(module):
    lock = getattr(import_module(module), OF_MODULES[module])
    with lock:
        assert not fails_in_child(lambda: lock.acquire(timeout=5))
        assert lock.locked()
    assert not lock.locked()


def test_no_module_has_a_lock_that_a_fork_may_leave_held():
    """But for those that are made in a function, with what they protect."""
    for path in Path(skdistmlp.__file__).parent.rglob("*.py"):
        lines = path.read_text().splitlines()
        found = [line for line in lines if re.match(r"\w.*threading\.R?Lock\(", line)]
        assert found == [], path


def test_whoever_forks_while_it_holds_a_lock_leaves_its_context():
    """It does not release what another thread of the new process holds."""
    lock = ForkSafeLock()

    def leave():
        other = threading.Thread(target=lock.acquire)
        other.start()
        other.join(timeout=5)
        lock.release()
        return lock.locked() and not lock.acquire(blocking=False)

    with lock:
        assert not fails_in_child(leave)


def test_one_thread_at_a_time():
    lock, counts = ForkSafeLock(), []

    def count():
        for _ in range(1000):
            with lock:
                counts.append(len(counts))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == list(range(4000))
    assert lock.acquire(blocking=False)
    assert not lock.acquire(timeout=0.01)
    lock.release()
    assert not lock.locked()
