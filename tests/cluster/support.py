"""Dask processes that tests may harm, and what a scheduler has seen."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from distributed import Client, Event

from skdistmlp.cluster.client.workers import known_workers

WITHIN_S = 60.0
"""How long anything may take before a test gives up; not a measure of speed."""


def wait_until(
    condition: Callable[[], Any], what: str, during: Future[Any] | None = None
) -> Any:
    """Wait until a function returns something true; return that.

    What it is true during must not end before.
    """
    deadline = time.monotonic() + WITHIN_S
    while not (answer := condition()):
        if during is not None and during.done():
            raise AssertionError(f"it ended before {what}: {during.result()}")
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)
    return answer


def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call a function in a thread that cannot keep the test run alive."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def bounded(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function, and fail instead of waiting forever."""
    return in_thread(function, *args, **kwargs).result(WITHIN_S)


def load() -> None:
    """Import on a worker what takes seconds, in which the worker does not answer."""


class DaskProcesses:
    """A `dask scheduler` and one-thread `dask worker`s without nannies.

    A context: leaving it ends every process.

    Parameters
    ----------
    directory : Path
        Room for their files.
    n_workers : int
        Workers to start.

    Attributes
    ----------
    address : str
        Of the scheduler.
    workers : dict
        Running workers by their addresses.
    """

    def __init__(self, directory: Path, n_workers: int) -> None:
        self.address = ""
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self._directory = directory
        self._n_workers = n_workers
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

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
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
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
    def unlike_worker(
        self, command: Sequence[str]
    ) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
        """Run a worker by another command than `python -m dask` within the context.

        Yields its address and its process.
        """
        name = f"worker-{len(self._processes)}"
        options = ("--host", "127.0.0.1", "--no-dashboard", "--no-nanny")
        process = self._start(
            "worker", "worker", self.address, "--name", name, *options, command=command
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
    def endless_client(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a client in a separate process that trains endlessly."""
        with self._client(ENDLESS_CLIENT) as process:
            yield process

    @contextmanager
    def sending_client(self, engine: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a client in a separate process that never stops sending rows."""
        with self._client(SENDING_CLIENT, engine) as process:
            yield process

    @contextmanager
    def _client(self, script: Path, *args: str) -> Iterator["subprocess.Popen[bytes]"]:
        process = self._start("client", script, self.address, *args)
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

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    def _start_dask(self, command: str, *options: Any) -> "subprocess.Popen[bytes]":
        shared = ("-m", "dask", command, "--host", "127.0.0.1", "--no-dashboard")
        return self._start(command, *shared, *options)

    def _start(
        self, kind: str, *arguments: Any, command: Sequence[str] = (sys.executable,)
    ) -> "subprocess.Popen[bytes]":
        name = f"{kind}-{len(self._processes)}"
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [*command, *map(str, arguments)],
                cwd=self._directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": LOG,
                },
            )
        return self._processes[name]


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


@contextmanager
def occupied(client: Client) -> Iterator[Callable[[], None]]:
    """Keep every thread of the cluster busy until the yielded function is called."""
    gate = Event(f"gate-{time.monotonic_ns()}", client=client)
    name = gate.name
    holding = [
        client.submit(
            lambda: Event(name).wait(WITHIN_S), workers=[worker], pure=False, priority=1
        )
        for worker in client.nthreads()
    ]
    wait_until(
        lambda: all(client.processing().values()), "every worker is kept from working"
    )
    try:
        yield gate.set
    finally:
        gate.set()
        client.gather(holding)


def task_keys(client: Client) -> list[tuple[Any, ...]]:
    """Return the keys of the engine's tasks on the scheduler."""
    keys = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
    return [key for key in keys if isinstance(key, tuple)]


def transitions(client: Client) -> list[tuple[Any, str, str]]:
    """Return the scheduler's log: key, state before and state after."""
    log = client.run_on_scheduler(
        lambda dask_scheduler: [tuple(t)[:3] for t in dask_scheduler.transition_log]
    )
    return [entry for entry in log if isinstance(entry[0], tuple)]
