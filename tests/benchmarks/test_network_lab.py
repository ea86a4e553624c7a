"""The lab of network namespaces: a fit in it, and that nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from benchmarks.network import leftovers
from benchmarks.network.links import Link
from benchmarks.network.measurement import TORCH, Results, measure
from benchmarks.network.namespaces import (
    DRIVER,
    ROOT,
    LabError,
    LabUnavailableError,
    check_available,
    open_lab,
)
from benchmarks.network.plans import ONE_THREAD
from benchmarks.network.processes import Driver, torch_step_ms
from skdistmlp.crossover.workloads import Workload

TINY = Workload(4, (6, 6), n_steps=2, n_epochs=2, batch_size=8)

SLEEP = ["-c", "import time; time.sleep(600)"]


@pytest.fixture(scope="module", autouse=True)
def _permitted():
    try:
        check_available([Link(100)])
    except LabUnavailableError as error:
        pytest.skip(str(error))


def left(lab_name):
    """Return what there is of a lab: namespaces, and its folder."""
    # With the hyphen: lab 1 of a process is not lab 10.
    names = leftovers.namespaces()
    spaces = [name for name in names if name.startswith(f"{lab_name}-")]
    folder = leftovers.folder(lab_name)
    return [*spaces, folder] if folder.exists() else spaces


def is_running(pid, started_at=None):
    """Say whether a process runs; the system gives its number to others later."""
    found = leftovers._started_at(pid)
    return found is not None and started_at in (None, found)


def devices():
    return set(os.listdir("/sys/class/net"))


@pytest.mark.slow
def test_a_fit_runs_over_a_shaped_link_until_a_worker_is_lost():
    before = devices()
    results = Results()
    with open_lab(2) as lab:
        plans = [ONE_THREAD, "neurons", "replicas"]
        driver = Driver(lab, plans)
        measure(lab, driver, [Link(100)], [TINY], plans, 1, results)
        pids = [process.pid for process in lab.processes.values()]
        started_at = [leftovers._started_at(pid) for pid in pids]
        assert None not in started_at
        assert set(lab.processes) == {"scheduler", "worker0", "worker1", "driver"}
        cores = [os.sched_getaffinity(lab.processes[name].pid) for name in lab.workers]
        assert all(len(core) == 1 for core in cores)
        assert len(os.sched_getaffinity(0)) == 1 or cores[0] != cores[1]
        lab.processes["worker1"].kill()
        with pytest.raises(LabError, match="the worker1 of the lab ended with code -9"):
            driver.step_ms("replicas", TINY)
    assert not left(lab.name)
    assert not any(map(is_running, pids, started_at))
    assert devices() == before
    (row,) = results.tables(2, 1)["network, 2 workers"]
    assert min(row["neurons, ms"], row["replicas, ms"]) > 0
    (rates,) = results.rates
    # It cannot be faster; how much slower depends on what else this machine does.
    assert 0 < rates["Mbit/s"] < 100


def test_an_exception_leaves_nothing():
    labs, processes = [], []

    def fail_in_a_lab():
        with open_lab(2) as lab:
            environment = dict(os.environ)
            process = lab.start("worker1", SLEEP, name="sleep", environment=environment)
            labs.append(lab.name)
            processes.append(process)
            # Namespaces of switch, driver and workers, and the folder.
            assert len(left(lab.name)) == 5
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_a_lab()
    assert not left(labs[0])
    assert processes[0].returncode == -signal.SIGKILL


def test_a_lab_that_cannot_be_built_leaves_nothing(monkeypatch):
    output = leftovers.output

    def refuse(arguments):
        if "address" in arguments:
            return subprocess.CompletedProcess(arguments, 1, "", "no more addresses")
        return output(arguments)

    names = []
    make_name = leftovers.new_lab_name
    monkeypatch.setattr(
        leftovers, "new_lab_name", lambda: names.append(make_name()) or names[-1]
    )
    monkeypatch.setattr(leftovers, "output", refuse)
    with pytest.raises(LabError, match="no more addresses"), open_lab(1):
        pytest.fail("it was built")
    assert len(names) == 1
    assert not left(names[0])


SERVE = """
import socket, sys
server = socket.create_server((sys.argv[1], 9000))
print("listening", flush=True)
server.accept()
print("met", flush=True)
"""

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 9000), 30)"


def test_two_labs_do_not_collide():
    def start(lab, machine, program):
        return lab.start(
            machine,
            ["-c", program, lab.address(DRIVER)],
            name=machine,
            environment=dict(os.environ),
            piped=True,
        )

    with open_lab(1) as first, open_lab(1) as second:
        servers = [start(lab, DRIVER, SERVE) for lab in (first, second)]
        for server in servers:
            assert server.stdout.readline() == "listening\n"
        assert start(second, "worker0", CONNECT).wait() == 0
        assert servers[1].stdout.readline() == "met\n"
        assert servers[0].poll() is None
        # A lab in use is no leftover.
        assert not {first.name, second.name} & set(leftovers.remove_leftovers())
        assert servers[0].poll() is None
    assert not left(first.name) + left(second.name)


def test_the_owner_of_a_lab_is_told_by_when_it_started():
    own = leftovers.new_lab_name()
    prefix, pid, _, number = own.rsplit("-", 3)
    earlier = f"{prefix}-{pid}-1-{number}"
    for name in (own, earlier):
        leftovers.folder(name).mkdir()
    assert earlier in leftovers.remove_leftovers()
    assert not left(earlier)
    assert left(own)
    leftovers.remove(own)
    assert not left(own)


MAIN = """
import os, time
from benchmarks.network.interruptions import interruptible
from benchmarks.network.namespaces import open_lab
with interruptible(), open_lab(1) as lab:
    sleep = ["-c", "import time; time.sleep(600)"]
    process = lab.start("worker0", sleep, name="sleep", environment=dict(os.environ))
    print(lab.name, process.pid, flush=True)
    time.sleep(600)
"""


@contextmanager
def lab_of_another_process():
    """Yield a process, the name of its lab, and what it runs there."""
    with subprocess.Popen(
        [sys.executable, "-c", MAIN], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        name, pid = process.stdout.readline().split()
        yield process, name, int(pid)


def test_what_a_killed_run_leaves_is_removed_by_the_next():
    with lab_of_another_process() as (killed, name, pid):
        killed.kill()
    # What it runs dies with it.
    deadline = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline
    assert left(name)
    assert name in leftovers.remove_leftovers()
    assert not left(name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_nothing(number):
    with lab_of_another_process() as (process, name, pid):
        assert left(name)
        assert is_running(pid)
        process.send_signal(number)
    assert process.returncode == 128 + number
    assert not left(name)
    assert not is_running(pid)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_and_its_lab(number, tmp_path):
    options = ["--networks", "4-6@5", "--links", "100M", "--without-torch"]
    file = ["--json", str(tmp_path / "n.json")]
    before = set(leftovers.namespaces())
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "network", *options, *file],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        for line in process.stderr:
            if "4-(6), batches of 5: one thread, 1 of " in line:
                break
        (lab,) = {
            name.rpartition("-")[0]
            for name in set(leftovers.namespaces()) - before
            if f"-{process.pid}-" in name
        }
        pids = inside(lab)
        # Scheduler, two workers, and the driver, which trains.
        assert len(pids) >= 4
        process.send_signal(number)
        said = process.stderr.read()
    assert f"interrupted by {number.name}; the lab is removed" in said
    assert process.returncode == 128 + number
    assert not left(lab)
    assert not any(map(is_running, pids))


def inside(lab):
    """Return the processes in the namespaces of a lab."""
    names = leftovers.namespaces()
    spaces = [name for name in names if name.startswith(f"{lab}-")]
    listed = (leftovers.output(["ip", "netns", "pids", name]).stdout for name in spaces)
    return [int(pid) for pids in listed for pid in pids.split()]


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize(("mode", "n_processes"), TORCH.values(), ids=list(TORCH))
def test_torch_runs_on_the_machines_of_workers(mode, n_processes):
    with open_lab(2) as lab:
        lab.shape(Link(1000))
        assert torch_step_ms(lab, mode, TINY, n_processes) > 0
        assert not lab.processes
        impossible = Workload(4, (-1,), n_steps=1, n_epochs=1)
        with pytest.raises(LabError, match=r"torch on worker. failed(.|\n)*negative"):
            torch_step_ms(lab, mode, impossible, n_processes)
