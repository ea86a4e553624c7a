"""How faults strike a fit that is held, seen from the test."""

import signal
from collections.abc import Callable
from contextlib import suppress

import dask

from tests.cluster.faults import gates as striking
from tests.cluster.faults.clusters import (
    LONG_TIMEOUT,
    MEMORY_LIMIT_BYTES,
    FitInThread,
    Scene,
    assert_right,
)
from tests.cluster.faults.gates import FORWARD, PLACING, Gate
from tests.cluster.support import WITHIN_S, in_thread, wait_until

TIMEOUT_S = 1.0
"""The timeout of an exchange, where it runs out."""

SLOW_TIMEOUT_S = 4.0
"""The same, where a slow shard stays within it."""

Strike = Callable[[Scene], tuple | None]
"""Harms somebody while the fit is held; returns what the victim is to do then."""


def kill(scene: Scene) -> None:
    scene.signal_victim(signal.SIGKILL)


def stop(scene: Scene) -> None:
    scene.signal_victim(signal.SIGSTOP)


def go_on_during_next_fit(scene: Scene) -> None:
    """Wake the victim in the middle of a fit on the other workers."""
    others = [worker for worker in scene.client.nthreads() if worker != scene.victim]
    (folder := scene.gate.folder / "next").mkdir()
    gate = Gate(folder)
    with dask.config.set(LONG_TIMEOUT):
        try:
            scene.client.run(striking.install, FORWARD, gate, workers=others[:1])
            following = FitInThread(scene.client, scene.data, n_workers=2)
            wait_until(lambda: gate.is_reached() or following.has_ended(), "it trains")
            assert gate.is_reached(), following.result(0)
        finally:
            scene.signal_victim(signal.SIGCONT)
        scene.await_freedom(but=others)
        gate.open()
        assert_right(following.result(WITHIN_S), scene.data)


def restart(scene: Scene) -> None:
    restarted = in_thread(scene.client.restart_workers, [scene.victim])
    scene.afterwards(restarted.result, WITHIN_S)
    scene.await_loss()


def retire(scene: Scene) -> None:
    retired = in_thread(scene.client.retire_workers, [scene.victim])
    scene.afterwards(retired.result, WITHIN_S)
    wait_until(lambda: scene.status_of_victim() != "running", "it is being retired")


def cut_links(scene: Scene) -> None:
    scene.on_victim(striking.cut_links)


def cut_connection_with_scheduler(scene: Scene) -> None:
    scene.on_victim(striking.abort_connection_with_scheduler)
    scene.await_loss()


def be_slow(scene: Scene) -> tuple:
    return "be_slow", 0.6 * SLOW_TIMEOUT_S


def keep_busy(scene: Scene) -> None:
    """Let somebody's task have the only thread of the victim for longer."""
    (folder := scene.gate.folder / "busy").mkdir()
    gate = Gate(folder)
    busy = scene.client.submit(
        gate.hold, workers=[scene.victim], pure=False, priority=1
    )
    wait_until(gate.is_reached, "the victim is busy")
    scene.gate.open()
    with suppress(TimeoutError):
        scene.fit.result(1.5 * TIMEOUT_S)
    gate.open()
    busy.result()


def compute_beside(scene: Scene) -> tuple:
    """Let somebody's task compute in the other thread, while the shard is slow."""
    (folder := scene.gate.folder / "beside").mkdir()
    gate = Gate(folder)
    beside = scene.client.submit(gate.spin, workers=[scene.victim], pure=False)
    wait_until(gate.is_reached, "the other thread computes")

    def end() -> None:
        assert not beside.done(), "it computed for as long as the fit went on"
        gate.open()
        beside.result()

    scene.afterwards(end)
    return be_slow(scene)


def eat_memory(scene: Scene) -> None:
    scene.on_victim(striking.eat_memory, 2 * MEMORY_LIMIT_BYTES)
    scene.await_loss()


def order(*what: object) -> Strike:
    return lambda _: what


def kill_client(scene: Scene) -> None:
    scene.fit.signal(signal.SIGKILL)


def interrupt(scene: Scene) -> None:
    scene.fit.signal(signal.SIGINT)
    if scene.phase == PLACING:
        wait_until(scene.fit.has_ended, "the client ends")
    elif scene.victim_is_held:
        wait_until(lambda: scene.on_victim(striking.is_told_to_stop), "it is told")


def interrupt_twice(scene: Scene) -> None:
    interrupt(scene)
    if not scene.victim_is_held:
        scene.await_held(1)
    scene.fit.signal(signal.SIGINT)
    wait_until(scene.fit.has_ended, "the client ends")


def kill_scheduler(scene: Scene) -> None:
    scene.cluster.kill_scheduler()


def spoil_weights(scene: Scene) -> tuple | None:
    if scene.victim_is_held:
        return ("send_nan",)
    return scene.on_victim(striking.spoil_weights)
