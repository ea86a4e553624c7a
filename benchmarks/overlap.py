"""A step of two shards whose exchanges travel while they compute, and without that.

Two processes of one thread each, connected over loopback, hold the same network twice.
They train both in turns, so that whatever else the machine does slows both alike.
"""

import math
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from multiprocessing import get_context
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.timing import with_progress
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.timing import median_ratio
from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.optimizers import init
from skdistmlp.nn.update_rules import Adam
from skdistmlp.parallel import overlap
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.shard import ShardState, split_state
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.step import training_step
from skdistmlp.wire.communicator import SocketCommunicator
from skdistmlp.wire.transfers import Link


class Case(NamedTuple):
    """Units of all layers, and rows of a mini-batch."""

    layer_units: tuple[int, ...]
    batch_size: int


CASES = [
    Case((64, 256, 256, 10), 200),
    Case((64, 256, 256, 10), 2000),
    Case((784, 1024, 1024, 10), 200),
    Case((784, 2048, 2048, 10), 200),
]

FORMS: dict[str, Mapping[str, float]] = {
    "in one piece": {"HALVED_BYTES": math.inf, "BLOCK_BYTES": 1e18},
    "blocks": {"HALVED_BYTES": math.inf},
    "blocks and halves": {"HALVED_BYTES": 0},
    "by size": {},
}
"""Constants of `skdistmlp.parallel.overlap`, by what is measured."""

STEPS_PER_TURN = 3


def compare_forms(repeats: int) -> Iterator[Row]:
    """Time steps of every form; yield a row per network."""
    for case in with_progress("overlap", CASES, str):
        times = _time_forms(case, repeats)
        row: dict[str, object] = {
            "network": "-".join(map(str, case.layer_units)),
            "batch_size": case.batch_size,
        }
        for form, each in times.items():
            row[f"{form}, ms"] = 1e3 * median(each)
            row[f"{form}, speedup"] = median_ratio(times["in one piece"], each)
        yield row


def _time_forms(case: Case, repeats: int) -> dict[str, list[float]]:
    """Return seconds per step of each turn, by form."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as ended:
        address = listener.getsockname()
        other = get_context("spawn").Process(
            target=_train_other, args=(address, case, repeats)
        )
        other.start()
        ended.callback(other.join)
        connection, _ = listener.accept()
        return _train(0, connection, case, repeats)


def _train_other(address: tuple[str, int], case: Case, repeats: int) -> None:
    _train(1, socket.create_connection(address), case, repeats)


def _train(
    rank: int, connection: socket.socket, case: Case, repeats: int
) -> dict[str, list[float]]:
    """Train one shard of each network in turns; see `_time_forms`."""
    links = {1 - rank: Link(connection, f"shard {1 - rank}")}
    communicator = SocketCommunicator(rank, links, bytes(16), timeout_s=60.0)
    networks = {form: _open(communicator, case) for form in FORMS}
    rows = np.random.default_rng(0).permutation(2 * case.batch_size)[: case.batch_size]
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    with threadpool_limits(1):
        for turn in range(repeats + 1):
            for form, constants in FORMS.items():
                with ExitStack() as patched:
                    for name, value in constants.items():
                        patched.enter_context(patch.object(overlap, name, value))
                    begun = time.perf_counter()
                    for _ in range(STEPS_PER_TURN):
                        training_step(networks[form].ops, rows, 1e-3)
                    # The first turn allocates buffers.
                    if turn:
                        seconds = time.perf_counter() - begun
                        times[form].append(seconds / STEPS_PER_TURN)
    communicator.close()
    return times


def _open(communicator: SocketCommunicator, case: Case) -> Any:
    """Return a shard with random parameters and rows, the same on both processes."""
    random, split = np.random.default_rng(0), NetworkSplit.even(case.layer_units, 2)
    parameters = 0.03 * random.standard_normal(split.n_parameters, dtype=np.float32)
    n_rows, n_outputs = 2 * case.batch_size, case.layer_units[-1]
    X = random.standard_normal((n_rows, case.layer_units[0]), dtype=np.float32)
    y = np.eye(n_outputs, dtype=bool)[random.integers(n_outputs, size=n_rows)]
    states = split_state(split, ShardState(parameters, init(Adam(), parameters)))
    return open_local_network(
        Network(dense_layers(case.layer_units, "relu"), "softmax", 1e-4),
        split,
        states[communicator.rank],
        Dataset(X, y).prepared(np.dtype(np.float32)),
        communicator,
        case.batch_size,
    )
