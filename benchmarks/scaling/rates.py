"""What one core does, on one thread: the rates that a step is computed from."""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.peak import BYTES_PER_PARAMETER
from skdistmlp.nn import compiled, optimizers
from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.update_rules import Adam
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.local_ops import LocalOps
from skdistmlp.parallel.shard import ShardState
from skdistmlp.parallel.split import NetworkSplit, consecutive_ranges
from skdistmlp.planning.rates import Rates
from skdistmlp.training.step import training_step
from skdistmlp.wire.communicator import SocketCommunicator
from skdistmlp.wire.packet import DTYPES, HEADER_BYTES, Header, Operation
from skdistmlp.wire.transfers import Link

FILE = Path(__file__).with_name("rates.json")
"""What was measured when the page was last written."""

WIDTHS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
"""Least dimensions of the products whose rate is measured: the others are `LARGE`."""

LARGE = 1024

N_PARAMETERS = 4_000_000
"""Of the optimiser's step: they and their moments fit in no cache."""

N_PEERS = 8
"""Number of those with whom short messages are exchanged."""

MIN_EXCHANGES = 20

LARGE_MESSAGE = 200, 80
"""Rows and columns of a message that fits into the kernel's buffers whatever their
limits, and that takes much longer than a short one."""

FLOAT32 = DTYPES.index(np.dtype(np.float32))

MIN_S = 0.1
"""Seconds for which each operation is repeated."""


def read() -> Rates:
    """Return the rates of the last measurement."""
    found = json.loads(FILE.read_text())
    found["flop_per_s"] = {int(k): rate for k, rate in found["flop_per_s"].items()}
    return Rates(**found)


def write(rates: Rates) -> None:
    """Keep rates, so that the page can be written again without measuring."""
    FILE.write_text(json.dumps(asdict(rates), indent=2) + "\n")


def measure() -> Rates:
    """Measure all rates on one thread of this process."""
    with threadpool_limits(1):
        n_rows, n_columns = LARGE_MESSAGE
        long_s = exchange_s(1, n_rows, n_columns) - exchange_s(1, n_rows, 1)
        return Rates(
            {width: _product_rate(width) for width in WIDTHS},
            _optimizer_rate(),
            _layer_s(),
            exchange_s(N_PEERS, 1, 1) / N_PEERS,
            4 * n_rows * (n_columns - 1) / long_s,
            round_trip_s(),
        )


def _product_rate(width: int) -> float:
    """Return operations per second of the three products of a layer of this width."""
    random = np.random.default_rng(0)
    inputs, coef, delta = (
        random.random(shape, dtype=np.float32)
        for shape in ((LARGE, LARGE), (LARGE, width), (LARGE, width))
    )
    outputs = [np.empty(s, np.float32) for s in (coef.shape, coef.shape, inputs.shape)]

    def products() -> None:
        np.matmul(inputs, coef, out=outputs[0])
        np.matmul(inputs.T, delta, out=outputs[1])
        np.matmul(delta, coef.T, out=outputs[2])

    return 3 * 2 * LARGE * LARGE * width / _seconds(products)


def _optimizer_rate() -> float:
    random = np.random.default_rng(0)
    parameters = random.standard_normal(N_PARAMETERS, dtype=np.float32)
    gradient = random.standard_normal(N_PARAMETERS, dtype=np.float32)
    # As a process does that trains for long.
    compiled.load(compiled.adam)
    state = optimizers.init(Adam(), parameters)

    def step() -> None:
        optimizers.update(
            state, parameters, gradient, 1e-3, n_coefs=N_PARAMETERS, penalty=1e-6
        )

    return BYTES_PER_PARAMETER * N_PARAMETERS / _seconds(step)


def _layer_s() -> float:
    """Return what a layer adds to a step that computes next to nothing."""
    few, many = (_step_s((4, *n_hidden * (4,), 2)) for n_hidden in (1, 5))
    return (many - few) / 4


def _step_s(units: tuple[int, ...]) -> float:
    split = NetworkSplit.even(units, 1)
    random = np.random.default_rng(0)
    parameters = random.standard_normal(split.n_parameters, dtype=np.float32)
    state = ShardState(parameters, optimizers.init(Adam(), parameters))
    X = random.standard_normal((8, units[0]), dtype=np.float32)
    network = Network(dense_layers(units, "relu"), "identity")
    data = Dataset(X, np.zeros((8, units[-1]), np.float32))
    ops = LocalOps(network, split, state, data, SingleProcess(), 8)
    return _seconds(lambda: training_step(ops, np.arange(8), 1e-3))


def exchange_s(n_peers: int, n_rows: int, n_columns: int) -> float:
    """Return the seconds of a reduce-scatter in which nothing has to be waited for.

    What the peers send lies in the buffers of the kernel before the clock runs.

    Parameters
    ----------
    n_peers : int
        Number of the other processes; one column block goes to each.
    n_rows, n_columns : int
        What each sends and is sent, in float32.
    """
    run, links, peers = b"a fit of a bench", {}, {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for rank in range(1, 1 + n_peers):
            mine = socket.create_connection(listener.getsockname())
            peers[rank], _ = listener.accept()
            links[rank] = Link(mine, f"shard {rank}")
    communicator = SocketCommunicator(0, links, run, 10.0, lambda: False)
    ranges = consecutive_ranges([n_columns] * (1 + n_peers))
    piece = np.zeros((n_rows, n_columns * (1 + n_peers)), np.float32)
    # Not empty: what lies there is sent, and sums of whatever it is may overflow.
    out = np.zeros((n_rows, n_columns), np.float32)
    room = bytearray(HEADER_BYTES + out.nbytes)
    each_s: list[float] = []
    try:
        while len(each_s) < MIN_EXCHANGES or sum(each_s) < MIN_S:
            fields = Operation.REDUCE_SCATTER, 0
            for rank, peer in peers.items():
                header = Header(
                    run, 0, 1 + len(each_s), *fields, rank, FLOAT32, n_rows, n_columns
                )
                peer.sendall(header.pack() + out.tobytes())
            communicator.begin_step()
            begun = time.perf_counter()
            communicator.reduce_scatter(piece, ranges, 0, out)
            each_s.append(time.perf_counter() - begun)
            for peer in peers.values():
                peer.recv_into(room, flags=socket.MSG_WAITALL)
    finally:
        communicator.close()
        for peer in peers.values():
            peer.close()
    return median(each_s)


def round_trip_s() -> float:
    """Return the seconds of a byte to another process and of the answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = os.fork()
        if child == 0:
            _answer(listener.getsockname())
        connection, _ = listener.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def there_and_back() -> None:
            connection.sendall(b"b")
            connection.recv(1)

        seconds = _seconds(there_and_back)
    os.waitpid(child, 0)
    return seconds


def _answer(address: tuple[str, int]) -> None:
    """Answer each byte, in the child process, which ends here."""
    code = 1
    try:
        with socket.create_connection(address, 10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while connection.recv(1):
                connection.sendall(b"b")
            code = 0
    finally:
        os._exit(code)


def _seconds(call: Callable[[], object]) -> float:
    """Return the median of repeated calls, the first of which does not count."""
    call()
    each_s: list[float] = []
    while sum(each_s) < MIN_S or len(each_s) < 3:
        begun = time.perf_counter()
        call()
        each_s.append(time.perf_counter() - begun)
    return median(each_s)
