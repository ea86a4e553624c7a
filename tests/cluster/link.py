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
        self._is_heard = True
        self._lock = threading.Lock()
        self._ends: list[tuple[socket.socket, socket.socket]] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_heard = True
        self.cut()
        # Closing it would not end a thread that accepts.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def cut(self) -> None:
        """End all connections, and new ones at once."""
        with self._lock:
            self._is_cut = True
            for here, there in self._ends:
                _close(here)
                if self._is_heard:
                    _close(there)
            if self._is_heard:
                self._ends.clear()

    def cut_unheard(self) -> None:
        """End all connections for the client only, until the link is closed.

        As where a machine on the way forgets a connection.
        """
        self._is_heard = False
        self.cut()

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
                self._ends.append((here, there))
            for ends in ((here, there), (there, here)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                sink.sendall(data)
        if self._is_heard:
            _close(source)
            _close(sink)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        # Wakes up a thread that waits for data, unlike `close`.
        end.shutdown(socket.SHUT_RDWR)
    end.close()
