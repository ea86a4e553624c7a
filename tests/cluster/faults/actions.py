"""Actions of the test that injure a fit while it is held."""

import signal
from collections.abc import Callable
from contextlib import suppress

import dask

from tests.cluster.faults import gates
from tests.cluster.faults.clusters import (
    LONG_TIMEOUT,
    MEMORY_LIMIT_BYTES,
    FitInThread,
    Scenario,
    assert_right,
)
from tests.cluster.faults.gates import FORWARD, PLACING, Gate
from tests.cluster.support import WITHIN_S, in_thread, set_status, wait_until

TIMEOUT_S = 1.0
"""Timeout of an exchange, where it is to expire."""

SLOW_TIMEOUT_S = 4.0
"""Timeout of an exchange that a slow shard stays within."""

PRESSED_S = 3.0
"""Seconds after which a user presses Ctrl-C again."""

N_PRESSED = 3
"""How often."""

Action = Callable[[Scenario], tuple | None]
"""Injects a fault while the fit is held; returns a command for the victim, if any."""


def kill(scenario: Scenario) -> None:
    scenario.signal(signal.SIGKILL)


def kill_twice(scenario: Scenario) -> None:
    """Kill the victim, and in the same phase of the next run what has replaced it."""
    if scenario.victim_is_held:
        scenario.hold_spare(scenario.phase)
    _kill_another(scenario, scenario.spare)


def kill_during_recovery(scenario: Scenario) -> None:
    """Kill the victim, and another one while the network is placed again."""
    scenario.hold_spare(PLACING)
    _kill_another(scenario, scenario.workers[scenario.rank - 1])


def _kill_another(scenario: Scenario, other: str) -> None:
    """Kill the victim, and when the next run is held another worker."""
    kill(scenario)
    scenario.gate.open(numbers=[0])
    scenario.wait_until_held(1)
    scenario.signal(signal.SIGKILL, other)
    scenario.losses.append({other})
    scenario.start_worker()


def kill_two(scenario: Scenario) -> None:
    """Kill two neighbours at once; the spare worker and another replace them."""
    other = scenario.workers[scenario.rank - 1]
    kill(scenario)
    scenario.signal(signal.SIGKILL, other)
    scenario.losses[0].add(other)
    scenario.start_worker()


def kill_and_replace_late(scenario: Scenario) -> None:
    """Kill the victim; start another worker once the fit holds none any more."""
    kill(scenario)
    scenario.gate.open()
    scenario.wait_until_lost()
    scenario.wait_until_free()
    scenario.start_worker()


def pause(scenario: Scenario) -> None:
    scenario.on_victim(set_status, "paused")
    scenario.add_cleanup(scenario.on_victim, set_status, "running")
    wait_until(lambda: scenario.status_of_victim() == "paused", "it is paused")


def suspend(scenario: Scenario) -> None:
    scenario.signal(signal.SIGSTOP)


def resume(scenario: Scenario) -> None:
    scenario.signal(signal.SIGCONT)


def resume_during_next_fit(scenario: Scenario) -> None:
    """Resume the victim in the middle of a fit on the other workers."""
    others = [
        worker for worker in scenario.client.nthreads() if worker != scenario.victim
    ]
    (folder := scenario.gate.folder / "next").mkdir()
    gate = Gate(folder)
    with dask.config.set(LONG_TIMEOUT):
        try:
            scenario.client.run(gates.install, FORWARD, gate, workers=others[:1])
            following = FitInThread(scenario.client, scenario.data, n_workers=2)
            wait_until(lambda: gate.is_reached() or following.has_ended(), "it trains")
            assert gate.is_reached(), following.result(0)
        finally:
            scenario.signal(signal.SIGCONT)
        scenario.wait_until_free(but=others)
        gate.open()
        assert_right(following.result(WITHIN_S), scenario.data)


def restart(scenario: Scenario) -> None:
    restarted = in_thread(scenario.client.restart_workers, [scenario.victim])
    scenario.add_cleanup(restarted.result, WITHIN_S)
    scenario.wait_until_lost()


def retire(scenario: Scenario) -> None:
    retired = in_thread(scenario.client.retire_workers, [scenario.victim])
    scenario.add_cleanup(retired.result, WITHIN_S)
    wait_until(lambda: scenario.status_of_victim() != "running", "it is being retired")


def cut_links(scenario: Scenario) -> None:
    scenario.on_victim(gates.cut_links)


def cut_connection_with_scheduler(scenario: Scenario) -> None:
    scenario.on_victim(gates.abort_connection_with_scheduler)
    scenario.wait_until_lost()


def slow_down(scenario: Scenario) -> tuple:
    return "slow_down", 0.6 * SLOW_TIMEOUT_S


def keep_busy(scenario: Scenario) -> None:
    """Occupy the victim's only thread with another task for longer than the timeout."""
    (folder := scenario.gate.folder / "busy").mkdir()
    gate = Gate(folder)
    busy = scenario.client.submit(
        gate.hold, workers=[scenario.victim], pure=False, priority=1
    )
    wait_until(gate.is_reached, "the victim is busy")
    scenario.gate.open()
    with suppress(TimeoutError):
        scenario.fit.result(1.5 * TIMEOUT_S)
    gate.open()
    busy.result()


def compute_in_other_thread(scenario: Scenario) -> tuple:
    """Let another task compute in the second thread, while the shard is slow."""
    (folder := scenario.gate.folder / "other_task").mkdir()
    gate = Gate(folder)
    other = scenario.client.submit(gate.spin, workers=[scenario.victim], pure=False)
    wait_until(gate.is_reached, "the other thread computes")

    def end() -> None:
        assert not other.done(), "it computed for as long as the fit went on"
        gate.open()
        other.result()

    scenario.add_cleanup(end)
    return slow_down(scenario)


def exhaust_memory(scenario: Scenario) -> None:
    scenario.on_victim(gates.exhaust_memory, 2 * MEMORY_LIMIT_BYTES)
    scenario.wait_until_lost()


def command(*what: object) -> Action:
    return lambda _: what


def kill_client(scenario: Scenario) -> None:
    scenario.fit.signal(signal.SIGKILL)


def interrupt(scenario: Scenario) -> None:
    scenario.fit.signal(signal.SIGINT)
    if scenario.phase == PLACING:
        wait_until(scenario.fit.has_ended, "the client ends")
    elif scenario.victim_is_held:
        wait_until(
            lambda: scenario.on_victim(gates.is_stop_requested),
            "the stop request arrives",
        )


def interrupt_twice(scenario: Scenario) -> None:
    interrupt(scenario)
    if not scenario.victim_is_held:
        scenario.wait_until_held(1)
    # Python drops an exception that is raised in the callback of a weak reference,
    # where an interrupt may happen to fall: then the user presses the keys once more.
    for _ in range(N_PRESSED):
        scenario.fit.signal(signal.SIGINT)
        with suppress(AssertionError):
            wait_until(scenario.fit.has_ended, "the client ends", within_s=PRESSED_S)
            return
    raise AssertionError(f"the client ignored {N_PRESSED} interrupts")


def kill_scheduler(scenario: Scenario) -> None:
    scenario.cluster.kill_scheduler()


def spoil_parameters(scenario: Scenario) -> tuple | None:
    if scenario.victim_is_held:
        return ("send_nan",)
    return scenario.on_victim(gates.spoil_parameters)
