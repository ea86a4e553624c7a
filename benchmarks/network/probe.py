"""What a link of the lab does: the time of a packet, and bytes per second."""

import socket
import time
from pathlib import Path
from typing import NamedTuple

from distributed import Client, as_completed

PORT = 9000
CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")
"""File of a network namespace: TCP's congestion control there."""

MESSAGE_BYTES = 1_000_000
N_ROUND_TRIPS = 50
SENT_S = 0.5
TIMEOUT_S = 30.0


class LinkRates(NamedTuple):
    """What was measured between two workers.

    Attributes
    ----------
    round_trip_us : float
        Microseconds of one byte and the answer.
    mbit_per_s : float
        Megabits per second of messages of a megabyte, each answered by a byte.
    congestion_control : str
        TCP's, on the second worker.
    """

    round_trip_us: float
    mbit_per_s: float
    congestion_control: str


def probe(client: Client) -> LinkRates:
    """Send bytes from the second worker to the first."""
    first, second = sorted(client.scheduler_info(n_workers=-1)["workers"])[:2]
    host = first.rpartition("/")[2].rpartition(":")[0]
    answering = client.submit(_answer, workers=[first], pure=False)
    sending = client.submit(_send, host, workers=[second], pure=False)
    # If one fails, the other waits until a timeout: the first error is the cause.
    with client.as_current():
        for ended in as_completed([answering, sending]):
            ended.result()
    return LinkRates(*sending.result())


def _answer() -> None:
    """Answer each message with one byte, until the other side hangs up."""
    with socket.create_server(("", PORT)) as server:
        server.settimeout(TIMEOUT_S)
        connection, _ = server.accept()
    with connection:
        connection.settimeout(TIMEOUT_S)
        buffer = bytearray(MESSAGE_BYTES)
        while header := connection.recv(1):
            missing = MESSAGE_BYTES - 1 if header == b"m" else 0
            while missing:
                n_bytes = connection.recv_into(memoryview(buffer)[:missing])
                if not n_bytes:
                    raise ConnectionError("the other worker hung up within a message")
                missing -= n_bytes
            connection.sendall(b"a")


def _send(host: str) -> tuple[float, float, str]:
    with _connect(host) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message = b"m" + bytes(MESSAGE_BYTES - 1)
        # The first opens TCP's window.
        _seconds(connection, message)
        round_trip_s = sorted(_seconds(connection, b"b") for _ in range(N_ROUND_TRIPS))
        sent_s: list[float] = []
        while sum(sent_s) < SENT_S:
            sent_s.append(_seconds(connection, message))
    median_s = round_trip_s[N_ROUND_TRIPS // 2]
    mbit_per_s = 8e-6 * MESSAGE_BYTES * len(sent_s) / sum(sent_s)
    return 1e6 * median_s, mbit_per_s, CONGESTION_CONTROL.read_text().strip()


def _connect(host: str) -> socket.socket:
    """Connect as soon as the other worker's task has started."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return socket.create_connection((host, PORT), timeout=TIMEOUT_S)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _seconds(connection: socket.socket, message: bytes) -> float:
    start = time.perf_counter()
    connection.sendall(message)
    if not connection.recv(1):
        raise ConnectionError("the other worker hung up")
    return time.perf_counter() - start
