"""Dask's commands in processes that tests may harm."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from distributed import Client

from skdistmlp.cluster.client.workers import known_workers
from tests.cluster.forked import ForkedCommand
from tests.cluster.support import WITHIN_S, load, wait_until

Process = subprocess.Popen[bytes] | ForkedCommand


class DaskProcesses:
    """A `dask scheduler` and one-thread `dask worker`s without nannies.

    A context: leaving it ends every process.

    Parameters
    ----------
    directory : Path
        Room for their files.
    n_workers : int
        Workers to start.
    command : sequence of str, optional
        What stands before ``scheduler`` and ``worker``. By default they are forked,
        which is faster, and run what the commands run.

    Attributes
    ----------
    address : str
        Of the scheduler.
    workers : dict
        Running workers by their addresses.
    """

    def __init__(
        self, directory: Path, n_workers: int, command: Sequence[str] | None = None
    ) -> None:
        self.address = ""
        self.workers: dict[str, Process] = {}
        self._directory = directory
        self._n_workers = n_workers
        self._command = command
        self._processes: dict[str, Process] = {}

    def __enter__(self) -> Self:
        try:
            contact = self._directory / "scheduler.json"
            self._start_dask("scheduler", "--port", "0", "--scheduler-file", contact)
            wait_until(lambda: contact.exists() and contact.read_text(), "it is up")
            self.address = json.loads(contact.read_text())["address"]
            self.have_workers(self._n_workers)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        # Asked to end, a worker that was suspended before takes ten seconds and more.
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self.print_output()

    def have_workers(self, n_workers: int, n_threads: int = 1, port: int = 0) -> None:
        """Start workers up to a number, and wait for them."""
        started = {
            (name := f"worker-{len(self._processes)}"): self._start_dask(
                *("worker", self.address, "--name", name),
                *("--nthreads", str(n_threads), "--no-nanny"),
                *("--worker-port", str(port)),
            )
            for _ in range(n_workers - len(self.workers))
        }
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=WITHIN_S)
            client.run(load)
            workers = known_workers(client)
        for address, info in workers.items():
            if info["name"] in started:
                self.workers[address] = started[info["name"]]

    @contextmanager
    def unlike_worker(self, command: Sequence[str]) -> Iterator[tuple[str, Process]]:
        """Run a worker by another command than `python -m dask` within the context.

        Yields its address and its process.
        """
        name = f"worker-{len(self._processes)}"
        process = self._start_dask(
            "worker", self.address, "--name", name, "--no-nanny", command=command
        )

        def address() -> str | None:
            known = known_workers(client).items()
            return next((at for at, info in known if info["name"] == name), None)

        try:
            with Client(self.address, set_as_default=False) as client:
                yield wait_until(address, f"{name} is there"), process
        finally:
            self._kill(process)
            with Client(self.address, set_as_default=False) as client:
                wait_until(lambda: address() is None, f"{name} is missed")

    def kill_worker(self, address: str) -> None:
        """Kill a worker, which tells nobody."""
        self._kill(self.workers.pop(address))

    @contextmanager
    def stopped_worker(self, address: str) -> Iterator[None]:
        """Suspend a worker within the context; its connections stay open."""
        self.workers[address].send_signal(signal.SIGSTOP)
        with self.woken_worker(address):
            yield

    @contextmanager
    def woken_worker(self, address: str) -> Iterator[None]:
        """Resume a worker on exit that a test suspends within the context."""
        try:
            yield
        finally:
            self.workers[address].send_signal(signal.SIGCONT)

    @contextmanager
    def endless_client(self) -> Iterator[Process]:
        """Run a client in a separate process that trains endlessly."""
        with self._client(ENDLESS_CLIENT) as process:
            yield process

    @contextmanager
    def sending_client(self, engine: str) -> Iterator[Process]:
        """Run a client in a separate process that never stops sending rows."""
        with self._client(SENDING_CLIENT, engine) as process:
            yield process

    @contextmanager
    def _client(self, script: Path, *args: str) -> Iterator[Process]:
        python = (sys.executable,)
        process = self._start("client", script, self.address, *args, command=python)
        try:
            yield process
        finally:
            self._kill(process)

    @contextmanager
    def stopped_scheduler(self) -> Iterator[Callable[[], None]]:
        """Yield a function that suspends the scheduler; resume it on exit."""
        process = self._processes["scheduler-0"]
        try:
            yield lambda: process.send_signal(signal.SIGSTOP)
        finally:
            process.send_signal(signal.SIGCONT)

    def resume_all(self) -> None:
        """Resume whatever is suspended."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)

    def kill_scheduler(self) -> None:
        """Kill the scheduler."""
        self._kill(self._processes["scheduler-0"])

    def print_output(self) -> None:
        """Print the output of the processes; pytest shows it when a test fails."""
        for name in self._processes:
            said = (self._directory / f"{name}.log").read_text()
            print(f"--- {name}\n{said}")  # noqa: T201

    def _kill(self, process: Process) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    def _start_dask(
        self, kind: str, *options: Any, command: Sequence[str] | None = None
    ) -> Process:
        """Start a scheduler or a worker."""
        options = ("--host", "127.0.0.1", "--no-dashboard", *options)
        return self._start(kind, kind, *options, command=command or self._command)

    def _start(
        self, kind: str, *arguments: Any, command: Sequence[str] | None
    ) -> Process:
        """Start a process; without a command, fork it."""
        name = f"{kind}-{len(self._processes)}"
        log = self._directory / f"{name}.log"
        environment = {
            **os.environ,
            "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": LOG,
        }
        words = [str(argument) for argument in arguments]
        if command is None:
            process: Process = ForkedCommand(words, log, environment)
        else:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [*command, *words],
                    cwd=self._directory,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
        self._processes[name] = process
        return process


DASK = (sys.executable, "-m", "dask")
"""The command of Dask."""

ENDLESS_CLIENT = Path(__file__).with_name("endless_client.py")
SENDING_CLIENT = Path(__file__).with_name("sending_client.py")

WITHOUT_PACKAGE = (
    sys.executable,
    "-c",
    "import sys; sys.modules['skdistmlp'] = None; import dask.__main__ as d; d.main()",
)
"""A command of Dask that cannot import this package."""

LOG = "100000"
"""Transitions that a scheduler of these tests remembers."""
