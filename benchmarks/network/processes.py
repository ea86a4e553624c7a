"""The processes of a lab: scheduler, workers, driver, and torch's."""

import json
import os
import select
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import dask

from benchmarks.network.forecasts import Forecast
from benchmarks.network.namespaces import DRIVER, Lab, LabError
from benchmarks.network.probe import LinkRates
from skdistmlp.crossover.local_workers import QUIET_WORKERS
from skdistmlp.crossover.workloads import Workload

SCHEDULER_PORT = 8786
TORCH_PORT = 29500

CHECK_S = 0.5
"""Between checks whether the processes of the lab are there, during a wait."""

ANSWER_S = 1800.0
"""For the driver to answer: the longest fits take minutes over the slowest link."""

ENDING_S = 5.0
"""For a process that caused an error to have ended: the kernel closes its connections
before others can see that it is gone, and on a busy machine that takes a while."""

MAX_TORCH_S = 5.0
"""Time for torch to train in; over a slow link it takes seconds per step."""

N_TORCH_PROCESSES = 2


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def environment() -> dict[str, str]:
    """Return the environment of all processes of the lab: one BLAS thread each."""
    one = dict.fromkeys(
        ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1"
    )
    # As Dask's nannies do for workers. There are none: a worker that was lost is not to
    # come back in the middle of a measurement.
    trimmed = dask.config.get("distributed.nanny.pre-spawn-environ")
    quiet = {
        f"DASK_{key.upper().replace('.', '__')}": str(value)
        for key, value in QUIET_WORKERS.items()
    }
    trimmed = {key: str(value) for key, value in trimmed.items()}
    return {**os.environ, **trimmed, **one, **quiet}


class Driver:
    """The driver of a lab with a scheduler and workers, which it starts.

    Parameters
    ----------
    lab : Lab
        Where to start them.
    plans : iterable of str
        Plans that will be timed.

    Raises
    ------
    LabError
        If one of the processes ends.
    """

    def __init__(self, lab: Lab, plans: Iterable[str]) -> None:
        self._lab = lab
        address = f"tcp://{lab.address(DRIVER)}:{SCHEDULER_PORT}"
        variables = environment()
        host = ["--host", lab.address(DRIVER), "--port", str(SCHEDULER_PORT)]
        scheduler = ["-m", "dask", "scheduler", *host, "--no-dashboard"]
        lab.start(DRIVER, scheduler, name="scheduler", environment=variables)
        for number, worker in enumerate(lab.workers):
            options = ["--no-nanny", "--no-dashboard", "--nthreads", "1"]
            names = ["--name", worker, "--host", lab.address(worker)]
            files = ["--local-directory", str(lab.folder)]
            lab.start(
                worker,
                ["-m", "dask", "worker", address, *options, *names, *files],
                name=worker,
                core=cores()[number % len(cores())],
                environment=variables,
            )
        program = ["-m", "benchmarks.network.driver", address, str(len(lab.workers))]
        self._process = lab.start(
            DRIVER, program, name="driver", environment=variables, piped=True
        )
        self._ask({"warm up": list(plans)})

    def step_ms(self, plan: str, workload: Workload) -> float:
        """Train, and return the milliseconds per step without a fit's fixed costs."""
        answer = self._ask({"plan": plan, "workload": asdict(workload)})
        return float(answer["step_ms"])

    def forecast(self, workload: Workload) -> Forecast:
        """Return what plans are expected to take, and which `auto` would choose."""
        return Forecast(**self._ask({"forecast": True, "workload": asdict(workload)}))

    def probe(self) -> LinkRates:
        """Return what a link does now."""
        return LinkRates(**self._ask({"probe": True}))

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        process, lab = self._process, self._lab
        assert process.stdin is not None
        assert process.stdout is not None
        lab.check_processes()
        # If it has just ended, this is said below.
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        deadline = time.monotonic() + ANSWER_S
        # There is one line per request: nothing can be in Python's buffer.
        while not select.select([process.stdout], [], [], CHECK_S)[0]:
            lab.check_processes()
            if time.monotonic() > deadline:
                raise LabError(
                    f"the driver of the lab has not answered for {ANSWER_S:g} s; the "
                    f"end of its log:\n{lab.end_of_log('driver')}"
                )
        line = process.stdout.readline()
        if not line:
            process.wait()
            lab.check_processes()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            # It may be the consequence of this.
            deadline = time.monotonic() + ENDING_S
            while time.monotonic() < deadline:
                lab.check_processes()
                time.sleep(CHECK_S / 10)
            raise LabError(f"the driver of the lab failed:\n{answer['error']}")
        return answer


def torch_step_ms(lab: Lab, mode: str, workload: Workload, n_processes: int) -> float:
    """Train with torch in processes on the first workers' machines and cores.

    Parameters
    ----------
    lab : Lab
        Whose workers are idle meanwhile.
    mode : str
        A key of `benchmarks.torch_mlp.MODES`.
    workload : Workload
        What to train.
    n_processes : int
        Number of processes.

    Returns
    -------
    float
        Milliseconds per step.

    Raises
    ------
    LabError
        If one of the processes fails.
    """
    machines = lab.workers[:n_processes]
    names = [f"torch on {machine}" for machine in machines]
    request: dict[str, Any] = {
        "layer_units": workload.layer_units,
        "n_steps": workload.n_steps,
        "n_epochs": max(2, workload.n_epochs),
        "batch_size": workload.batch_size,
        "threads": 1,
        "mode": mode,
        "n_processes": n_processes,
        "store": [lab.address(machines[0]), TORCH_PORT],
        "max_s": MAX_TORCH_S,
    }
    for rank, (name, machine) in enumerate(zip(names, machines, strict=True)):
        process = lab.start(
            machine,
            ["-m", "benchmarks.torch_mlp"],
            name=name,
            core=cores()[rank % len(cores())],
            # Or gloo looks for the address that belongs to the name of this machine.
            environment=environment() | {"GLOO_SOCKET_IFNAME": "eth0"},
            piped=True,
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request | {"rank": rank}))
            process.stdin.close()
    try:
        running = [lab.processes[name] for name in names]
        while any(process.poll() != 0 for process in running):
            _check(lab, names)
            time.sleep(CHECK_S / 10)
        output = lab.processes[names[0]].stdout
        assert output is not None
        return float(json.loads(output.read().splitlines()[-1])[mode])
    finally:
        for name in names:
            lab.forget(name)


def _check(lab: Lab, names: Iterable[str]) -> None:
    for name in names:
        if lab.processes[name].poll():
            raise LabError(f"{name} failed; its log:\n{lab.end_of_log(name)}")


def warn_of_few_cores(n_workers: int) -> None:
    """Say so if workers share cores: they are slower than machines would be."""
    if n_workers > len(cores()):
        print(
            f"{n_workers} workers share {len(cores())} cores, so they are slower than "
            f"as many machines would be",
            file=sys.stderr,
        )
