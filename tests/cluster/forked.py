"""Dask processes that start fast: forked from a server that has imported everything."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import dask
import dask.__main__
from distributed import Client, Scheduler, Worker

from tests.cluster.support import WITHIN_S, wait_until

CONTEXT = get_context("forkserver")


IMPORTED = (
    "distributed.cli.dask_scheduler",
    "distributed.cli.dask_worker",
    "distributed.deploy.local",
    "skdistmlp.cluster.futures.driver",
    "skdistmlp.cluster.peers.driver",
    "skdistmlp.estimators.classifier",
)
"""Modules that the server has imported; they take seconds."""


def start_server() -> None:
    """Start the server if it does not run, which Dask's nannies can use too."""
    # As a nanny does before it starts a process: BLAS reads it once, when it is loaded.
    before = dask.config.get("distributed.nanny.pre-spawn-environ")
    os.environ.update({name: str(value) for name, value in before.items()})
    CONTEXT.set_forkserver_preload(list(IMPORTED))
    forkserver.ensure_running()


def fork(function: Callable[..., Any], *args: Any) -> BaseProcess:
    """Call a function in a new process."""
    start_server()
    process = CONTEXT.Process(target=function, args=args)
    process.start()
    return process


class ForkedCommand:
    """A command of Dask in a new process, with some of what `subprocess.Popen` has.

    Parameters
    ----------
    arguments : sequence of str
        As after ``dask``.
    log : Path
        Gets the output.
    environment : mapping
        Environment variables.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self._arguments = arguments
        self._process = fork(_run_command, list(arguments), log, dict(environment))
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return how the process ended; None if it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process; return how it ended."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(list(self._arguments), timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to the process unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        self.send_signal(signal.SIGKILL)


def _run_command(
    arguments: list[str], log: Path, environment: Mapping[str, str]
) -> None:
    """Do what the command line does, in a process like that of a shell."""
    _write_output_to(log)
    os.chdir(log.parent)
    os.environ.clear()
    os.environ.update(environment)
    dask.config.refresh()
    sys.argv = ["dask", *arguments]
    dask.__main__.main()


def _write_output_to(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())


class ForkedProcesses:
    """A scheduler and workers without nannies; a context.

    Parameters
    ----------
    directory : Path
        Room for their files.
    settings : mapping
        Of Dask, in all processes.
    n_threads : int
        Of each worker.

    Attributes
    ----------
    address : str
        Of the scheduler.
    workers : dict
        Processes of the workers that ought to run, by address.
    """

    def __init__(
        self, directory: Path, settings: Mapping[str, Any], n_threads: int = 1
    ) -> None:
        self.address = ""
        self.workers: dict[str, BaseProcess] = {}
        self._directory = directory
        self._settings = dict(settings)
        self._n_threads = n_threads
        self._processes: list[BaseProcess] = []

    def __enter__(self) -> Self:
        self._scheduler, self.address = self._start(_run_scheduler, 0)
        return self

    def __exit__(self, *exception: Any) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def have_workers(self, n_workers: int) -> None:
        """Start workers up to a number, and wait for them."""
        self.add_workers(["127.0.0.1"] * (n_workers - len(self.workers)))

    def add_workers(self, hosts: Iterable[str]) -> None:
        """Start a worker on each of these addresses of this machine; wait for them."""
        for host in hosts:
            process, address = self._start(
                _run_worker, self.address, self._n_threads, host
            )
            self.workers[address] = process
        with Client(self.address, set_as_default=False) as client:
            wait_until(
                lambda: set(client.nthreads()) == set(self.workers), "all are there"
            )

    def kill_scheduler(self) -> None:
        """Kill the scheduler."""
        self._scheduler.kill()
        self._scheduler.join()

    @contextmanager
    def stopped_scheduler(self) -> Iterator[None]:
        """Suspend it within the context."""
        pid = self._scheduler.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def replace_scheduler(self) -> None:
        """Kill it, and with it all workers; start another at the same address."""
        self.kill_scheduler()
        self.forget_gone([])
        port = int(self.address.rpartition(":")[2])
        self._scheduler, _ = self._start(_run_scheduler, port)

    def forget_gone(self, present: Iterable[str]) -> None:
        """Wait until the processes of workers that have left the cluster have ended."""
        for address in set(self.workers) - set(present):
            process = self.workers.pop(address)
            process.join(WITHIN_S)
            assert process.exitcode is not None, f"{address} goes on"

    def print_output(self) -> None:
        """Print the output of the processes; pytest shows it when a test fails."""
        for log in sorted(self._directory.glob("*.log")):
            print(f"--- {log.stem}\n{log.read_text()}")  # noqa: T201

    def _start(self, *what: Any) -> tuple[BaseProcess, str]:
        """Start a process; return it and its address."""
        name = f"{what[0].__name__}-{len(self._processes)}"
        contact = self._directory / name
        process = fork(_run, self._settings, contact, *what)
        self._processes.append(process)
        address = wait_until(
            lambda: contact.exists() and contact.read_text(), "it is up"
        )
        return process, address


def _run(
    settings: Mapping[str, Any], contact: Path, function: Callable[..., Any], *args: Any
) -> None:
    """Run a server until it ends; write its address to a file."""
    _write_output_to(contact.with_suffix(".log"))
    # Ctrl-C in a terminal should reach only the tests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with dask.config.set(settings):
        asyncio.run(function(contact, *args))


async def _run_scheduler(contact: Path, port: int) -> None:
    async with Scheduler(host="127.0.0.1", port=port, dashboard=False) as scheduler:
        _write(contact, scheduler.address)
        await scheduler.finished()


async def _run_worker(contact: Path, scheduler: str, n_threads: int, host: str) -> None:
    async with Worker(
        scheduler,
        host=host,
        nthreads=n_threads,
        local_directory=contact.parent,
        dashboard=False,
    ) as worker:
        _write(contact, worker.address)
        await worker.finished()


def _write(contact: Path, address: str) -> None:
    ready = contact.with_suffix(".new")
    ready.write_text(address)
    ready.rename(contact)
