"""Keep Ctrl-C away from workers that are processes of this one.

A terminal sends Ctrl-C, and a notebook its stop button, to the whole process group:
also to the workers of a `LocalCluster`, which would end, and what they hold with them.
Here, the interrupt ends the run in the client alone.
"""

import os
import signal
import socket
import threading
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import psutil
from distributed import Client

from skdistmlp.cluster._dask import host_and_port_of, run_directly
from skdistmlp.timeouts import PING_ANSWER_S

THREAD_NAME = "skdistmlp-interrupts"

_PROCESSES: WeakKeyDictionary[Client, dict[str, psutil.Process | None]] = (
    WeakKeyDictionary()
)
"""For each worker that a client has seen, its process if it descends from this one."""


class InterruptShield:
    """Has workers ignore SIGINT while a run lasts, if they descend from this process.

    No other worker is touched: whoever started it in another terminal may end it from
    there. Shields of several runs may overlap: a worker heeds SIGINT again when the
    last of them is closed.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses.
    """

    def __init__(self, client: Client, workers: Sequence[str]) -> None:
        self._client = client
        self._name = uuid.uuid4().hex
        self._workers = workers
        self._shielded: dict[str, psutil.Process] = {}

    def open(self) -> None:
        """Have the workers ignore SIGINT from now on."""
        names = own_workers(self._client, self._workers)
        processes = _PROCESSES[self._client]
        self._shielded = {
            name: process for name in names if (process := processes[name]) is not None
        }
        self._tell(self._shielded, False, ignore_interrupts, self._name, os.getpid())

    def close(self, silent: Collection[str] = ()) -> None:
        """Have them heed it again, unless another run goes on there.

        Parameters
        ----------
        silent : collection of str
            Addresses of workers that do not answer: those are not waited for.
        """
        others = dict(self._shielded)
        hanging = {name: others.pop(name) for name in self._shielded if name in silent}
        # However late they answer: one that is suspended now would otherwise ignore
        # Ctrl-C for as long as this process lives.
        self._tell(hanging, True, heed_interrupts, self._name, wait_s=0)
        self._tell(others, True, heed_interrupts, self._name)
        self._shielded = {}

    def _tell(
        self,
        shielded: Mapping[str, psutil.Process],
        insists: bool,
        function: Callable[..., None],
        *args: Any,
        wait_s: float = PING_ANSWER_S,
    ) -> None:
        """Call a function on workers; wait for it, but not for long.

        Directly, since the client may be closed and the scheduler hang. In another
        thread, since this one may run an event loop, and so that an interrupt does not
        cut it short; a daemon, since it must not keep this process alive. If it
        insists, the thread goes on until each worker has answered or ended.
        """
        client = self._client
        if not shielded:
            return

        def call() -> None:
            # A worker that is gone or hangs is reported elsewhere. One that has ended
            # would take all the seconds of a call: its port is tried again until then.
            silent = [name for name in shielded if not _has_ended(shielded[name])]
            while silent:
                answered: Sequence[str] = ()
                with suppress(Exception):
                    answered = run_directly(
                        silent, client, PING_ANSWER_S, function, *args
                    )
                silent = [
                    worker
                    for worker in silent
                    if insists
                    and worker not in answered
                    and not _has_ended(shielded[worker])
                ]

        # RuntimeError: at the end of the interpreter no thread starts any more.
        with suppress(RuntimeError):
            thread = threading.Thread(target=call, name=THREAD_NAME, daemon=True)
            thread.start()
            thread.join(wait_s)


def _has_ended(process: psutil.Process) -> bool:
    """Say whether a process has ended or been killed."""
    with suppress(psutil.Error):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


@contextmanager
def shielded_from_interrupts(client: Client, workers: Sequence[str]) -> Iterator[None]:
    """Shield workers within the context; see `InterruptShield`."""
    shield = InterruptShield(client, workers)
    try:
        shield.open()
        yield
    finally:
        shield.close()


def own_workers(client: Client, workers: Sequence[str]) -> list[str]:
    """Return those of some workers whose processes descend from this one.

    They are known by the ports on which descendants listen. The number of a process
    alone would not do: it may be another one's on another machine.
    """
    seen = _PROCESSES.setdefault(client, {})
    for worker in workers:
        # It takes milliseconds to look for them, and a small prediction not many more.
        process = seen.get(worker)
        if worker not in seen or (process is not None and not process.is_running()):
            here = [name for name in workers if _is_on_this_machine(name)]
            found = _listening_descendants() if here else {}
            seen.update(dict.fromkeys(workers))
            seen.update({name: found.get(host_and_port_of(name)[1]) for name in here})
            break
    return [worker for worker in workers if seen.get(worker) is not None]


def _is_on_this_machine(worker: str) -> bool:
    """Say whether the host of an address is an address of this machine."""
    # Dask closes its web sockets too late for an event loop as short as ours, which
    # would leave them open. docs/troubleshooting.md says so.
    if not worker.startswith(("tcp://", "tls://")):
        return False
    try:
        host, _ = host_and_port_of(worker)
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except (OSError, ValueError):
        # ValueError: a worker in a thread of this process, which has no port.
        return False
    return True


def _listening_descendants() -> dict[int, psutil.Process]:
    """Return the descendants of this process by the ports on which they listen."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        # One that has just ended, or that belongs to another user.
        with suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found[connection.laddr.port] = process
    return found


# On a worker, in the thread of its event loop.

_CLIENTS: dict[str, int] = {}
"""The shields under which this process ignores SIGINT, and their clients' processes."""

_CLOSED: deque[str] = deque(maxlen=1000)
"""Shields that were closed: the two calls of one may arrive in the wrong order, if an
interrupt came while it was being opened."""

_before: Any = None
"""What SIGINT did before the first of these shields."""


def ignore_interrupts(shield: str, client_pid: int) -> None:
    """Have this process ignore SIGINT until a shield is closed."""
    global _before
    # Not in a worker that is a thread: it shares its process with somebody else. And
    # None is a handler that Python cannot restore.
    in_thread = threading.current_thread() is not threading.main_thread()
    if in_thread or shield in _CLOSED or signal.getsignal(signal.SIGINT) is None:
        return
    if not _CLIENTS:
        # Not SIG_IGN: programs that a task starts would inherit it.
        _before = signal.signal(signal.SIGINT, _on_interrupt)
    _CLIENTS[shield] = client_pid


def heed_interrupts(shield: str) -> None:
    """Have this process heed SIGINT again, unless there is another shield."""
    _CLOSED.append(shield)
    if _CLIENTS.pop(shield, None) is not None and not _CLIENTS:
        signal.signal(signal.SIGINT, _before)


def _on_interrupt(_number: int, _frame: Any) -> None:
    """Ignore the signal, unless the clients' processes are gone."""
    for shield, pid in list(_CLIENTS.items()):
        if not psutil.pid_exists(pid):
            heed_interrupts(shield)
    if not _CLIENTS:
        signal.raise_signal(signal.SIGINT)
