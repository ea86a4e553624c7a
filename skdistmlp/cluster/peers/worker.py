"""What runs on the workers in the "peers" engine: tasks and calls on their shards."""

import copy
import socket
from typing import NoReturn
from weakref import WeakValueDictionary, ref

from distributed import Worker, get_worker

from skdistmlp.cluster._dask import (
    add_metric,
    dask_serialize,
    host_of,
    requires_encryption,
    result_dropped,
    tls_contexts,
)
from skdistmlp.cluster.peers.shard import PeerShard, Report, Roster, ShardCopy
from skdistmlp.cluster.run.garbage import collect_until_gone
from skdistmlp.cluster.run.task_context import own_blas_threads, task_cancellation
from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel.data import Dataset
from skdistmlp.settings import listen_ports
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.state import TrainingState
from skdistmlp.wire.handshake import Address, Credentials, Tls, listen

PLAIN = frozenset({"tcp", "ws", "inproc", "ucx", "ucxx"})
"""Dask's protocols without encryption. Any other may have it, as tls and wss do."""

METRIC = "mlp epoch"
"""Name of the column of the dashboard's page on workers that says how far a fit is."""

_RUNS: WeakValueDictionary[tuple[bytes, int], PeerShard] = WeakValueDictionary()
"""Shards in this process by run and rank, so that an interrupt reaches them. Weak: a
shard lives exactly as long as Dask holds it as the result of its task."""


def open_shard(
    credentials: Credentials, rank: int, job: TrainingJob, n_lines: int
) -> PeerShard:
    """Create a shard that listens on the address that its worker has in the cluster."""
    worker = get_worker()
    # Training changes a job, and what Dask holds must not change. Workers that are
    # threads of one process even share it.
    job = copy.deepcopy(job)
    shard = PeerShard(
        credentials, rank, open_listener(worker), tls_of(worker), job, n_lines
    )
    _RUNS[credentials.run, rank] = shard
    add_metric(worker, METRIC, lambda _: epochs_here())
    # An error may hold it, also one of Dask that tried to write it to disk.
    collect_until_gone(worker, ref(shard), result_dropped(worker))
    return shard


def refuse_to_send(shard: PeerShard) -> NoReturn:
    """Raise, as pickle would: while a worker is being retired, Dask tries every 2 s.

    Each time it would log three tracebacks of pickle on that worker, and as many lines
    of them on the other.
    """
    shard.__reduce__()


dask_serialize.register(PeerShard, refuse_to_send)


def open_listener(worker: Worker) -> socket.socket:
    """Return a socket that listens on the address that a worker has in the cluster."""
    # Workers that are threads of one process have no address on a network.
    inside = worker.address.startswith("inproc://")
    host = "127.0.0.1" if inside else host_of(worker.address)
    return listen(host, listen_ports())


def tls_of(worker: Worker) -> Tls | None:
    """Return how this worker encrypts its connections, None if it does not.

    Raises
    ------
    ExchangeError
        If it does, or may, and has no certificate that shards could use.
    """
    scheme = worker.address.partition("://")[0]
    if scheme in PLAIN and not requires_encryption(worker):
        return None
    listening, connecting = tls_contexts(worker)
    if listening is None or connecting is None:
        raise ExchangeError(
            f"worker {worker.address} has no TLS certificate, so its shard cannot "
            f"connect: the cluster requires encryption, or its protocol is none of "
            f"{', '.join(sorted(PLAIN))}. Give each worker a certificate, a key and "
            f"the authority (--tls-cert, --tls-key and --tls-ca-file of dask worker, "
            f"or Security), or use engine='futures'."
        )
    return Tls(listening, connecting)


def address_of(shard: PeerShard) -> Address:
    """Return where a shard takes connections."""
    return shard.address


def train_round(
    shard: PeerShard,
    number: int,
    dataset: Dataset | None,
    roster: Roster | None,
    round_s: float,
    stop: bool,
) -> Report:
    """Train one shard for one round, with the threads of its worker."""
    with own_blas_threads():
        return shard.train(number, dataset, roster, round_s, stop, task_cancellation())


def snapshot_of(shard: PeerShard) -> TrainingState:
    """Return a copy of the state of a shard, between rounds."""
    return shard.snapshot()


def copy_of(shard: PeerShard, number: int) -> ShardCopy:
    """Return a copy of what would be lost with a shard, between rounds."""
    return shard.numbered_copy(number)


def keep(copy: ShardCopy) -> ShardCopy:
    """Return the copy of this or another shard, which Dask has brought here."""
    return copy


def copy_in_place(run: bytes, rank: int) -> ShardCopy:
    """Return a copy of what would be lost with a shard in this process.

    Not a task: called on a worker that accepts none.
    """
    return _shard_here(run, rank).copy()


def withhold(run: bytes, rank: int, n_rounds: int) -> bool:
    """Have a shard in this process begin no further round; see `PeerShard`."""
    return _shard_here(run, rank).withhold(n_rounds)


def _shard_here(run: bytes, rank: int) -> PeerShard:
    shard = _RUNS.get((run, rank))
    if shard is None:
        # As of a task on a shard that is lost.
        raise ExchangeError(f"shard {rank} is no longer on this worker")
    return shard


def epochs_here() -> str:
    """Return what to show of the fits in this process, as their shards know it."""
    return ", ".join(filter(None, (shard.epoch for shard in list(_RUNS.values()))))


def request_stop(run: bytes) -> None:
    """Ask the shards of a run on this process to stop after a step."""
    for (other, _), shard in list(_RUNS.items()):
        if other == run:
            shard.request_stop()


def missing_shards(run: bytes) -> list[int]:
    """Return the shards that the one of a run in this process has yet to find."""
    return [
        missing
        for (other, _), shard in list(_RUNS.items())
        if other == run
        for missing in shard.missing()
    ]
