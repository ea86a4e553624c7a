"""A connection to a scheduler that breaks for a while, as a network may."""

import socket
import threading
from contextlib import suppress
from typing import Self

from skdistmlp.cluster._dask import host_and_port_of


class Link:
    """Passes on what a client and a scheduler send each other, unless it is cut.

    A context.

    Parameters
    ----------
    address : str
        Of the scheduler.

    Attributes
    ----------
    address : str
        For the client, in place of that of the scheduler.
    """

    def __init__(self, address: str) -> None:
        self._scheduler = host_and_port_of(address)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._is_cut = False
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.cut()
        # Closing it would not end a thread that accepts.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def cut(self) -> None:
        """End all connections, and new ones at once."""
        with self._lock:
            self._is_cut = True
            for end in self._ends:
                _close(end)
            self._ends.clear()

    def mend(self) -> None:
        """Pass on new connections again."""
        self._is_cut = False

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:
                return
            with self._lock:
                if self._is_cut:
                    _close(here)
                    continue
                there = socket.create_connection(self._scheduler)
                self._ends += here, there
            for source, sink in ((here, there), (there, here)):
                args = source, sink
                threading.Thread(target=_pass_on, args=args, daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
    _close(source)
    _close(sink)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        # Wakes up a thread that waits for data, unlike `close`.
        end.shutdown(socket.SHUT_RDWR)
    end.close()
