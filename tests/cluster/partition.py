"""Workers that cannot connect to each other, as behind a firewall that drops packets.

The workers have addresses of their own on this machine, of the form 127.0.0.N, which
not every system has.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from distributed import Client, Worker

from skdistmlp.cluster._dask import host_of
from tests.cluster.forked import ForkedProcesses

HOSTS = "127.0.0.2", "127.0.0.3"

ORIGINALS = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}

_SILENT: list[socket.socket] = []
"""A socket whose queue is full, and those that fill it: who connects, waits forever."""


@contextmanager
def cluster_with_hosts(directory: Any, settings: Any) -> Iterator[ForkedProcesses]:
    """Start a scheduler and two workers, each at its own address."""
    with ForkedProcesses(directory, settings) as cluster:
        cluster.add_workers(HOSTS)
        yield cluster


@contextmanager
def blocked(client: Client, worker: str, other: str) -> Iterator[None]:
    """Keep a worker from connecting to another, which may still connect to it."""
    with ExitStack() as stack:
        stack.callback(client.run, unblock, workers=[worker])
        client.run(block, other, workers=[worker])
        yield


async def block(other: str, dask_worker: Worker) -> None:
    """Drop what this process sends to another worker, and end their connections."""
    if not _SILENT:
        queue = socket.create_server(("127.0.0.1", 0), backlog=0)
        _SILENT.append(queue)
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(queue.getsockname())
            _SILENT.append(waiting)
    host = host_of(other)

    def redirected(original: Any) -> Any:
        def connect(self: socket.socket, address: Any) -> Any:
            there = address[0] == host
            return original(self, _SILENT[0].getsockname() if there else address)

        return connect

    for name, original in ORIGINALS.items():
        setattr(socket.socket, name, redirected(original))
    dask_worker.rpc.remove(other)


def unblock() -> None:
    """Undo that."""
    for name, original in ORIGINALS.items():
        setattr(socket.socket, name, original)
    while _SILENT:
        _SILENT.pop().close()
