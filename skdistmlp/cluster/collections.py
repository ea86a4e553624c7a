"""Dask arrays and data frames as features, targets and weights.

Features stay on the workers: each is told of every block where it lies, and each
worker of a fit copies all blocks, straight from the workers that have them,
into an array of its own. Targets and weights, a few numbers a row, come to the
client, which needs the classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from dask.base import compute as compute_here
from dask.base import is_dask_collection
from dask.delayed import delayed
from dask.sizeof import sizeof
from distributed import Client, Future, Worker, futures_of, get_worker
from distributed.utils import sync
from distributed.utils_comm import gather_from_workers
from scipy.sparse import csr_array, issparse, vstack
from sklearn.utils import check_array

from skdistmlp.cluster.client import active_client, connected, explained, reaches
from skdistmlp.cluster.pinned import PinnedTasks
from skdistmlp.exceptions import WorkerLostError
from skdistmlp.nn.types import Features
from skdistmlp.parallel.data import Dataset, RemoteFeatures, index_dtype

BATCH_BYTES = 32 * 2**20
"""Bytes of blocks on their way to a worker at a time, beside the array that they are
copied into; a larger block comes alone."""


@dataclass(frozen=True)
class Block:
    """What has to be known of a block of rows to plan with it.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    dtype : dtype
        float32 or float64: that of the numbers once they are features.
    nnz : int or None
        How many numbers a sparse block stores; None for a dense one.
    nbytes : int
        Bytes of the block as it lies on its worker.
    """

    shape: tuple[int, int]
    dtype: np.dtype[np.floating]
    nnz: int | None
    nbytes: int


def describe(block: Any, estimator_name: str) -> Block:
    """Check a block as scikit-learn does, on the worker that has it."""
    rows = _as_features(block, estimator_name, ensure_all_finite=True)
    nnz = int(rows.nnz) if issparse(rows) else None
    return Block(rows.shape, rows.dtype, nnz, sizeof(block))


def _as_features(block: Any, estimator_name: str | None = None, **checks: Any) -> Any:
    """Return a block as an array or compressed rows; an empty one is a block too."""
    return check_array(
        block,
        accept_sparse="csr",
        dtype=(np.float64, np.float32),
        ensure_min_samples=0,
        input_name="X",
        estimator=estimator_name,
        **checks,
    )


class DaskFeatures(RemoteFeatures):
    """The blocks of a Dask array or data frame, on the workers of a cluster.

    Parameters
    ----------
    client : Client
        A connected client.
    collection : Array or DataFrame
        One column of blocks.
    futures : list of Future
        The blocks, computed.
    blocks : sequence of Block
        What is known of them.
    dtype : dtype
        float32 or float64.
    """

    def __init__(
        self,
        client: Client,
        collection: Any,
        futures: list[Future[Any]],
        blocks: Sequence[Block],
        dtype: np.dtype[np.floating],
    ) -> None:
        self.client = client
        self.dtype = dtype
        self.header = header_of(collection)
        self.blocks = blocks
        self._collection = collection
        self._futures = futures
        n_rows = sum(block.shape[0] for block in blocks)
        self.shape = n_rows, blocks[0].shape[1]
        stored = [block.nnz for block in blocks if block.nnz is not None]
        self.nnz = sum(stored) if stored else None

    def astype(self, dtype: np.dtype[np.floating]) -> Self:
        """Return the same features, to be joined in another dtype."""
        return type(self)(
            self.client, self._collection, self._futures, self.blocks, dtype
        )

    def fetch(self) -> Features:
        """Return all features as an array, or compressed rows, in this process."""
        with self.held() as futures, explained(self.client, (), "fetching X"):
            return join(futures, self.blocks, self.dtype, self.client.gather)

    @contextmanager
    def held(self) -> Iterator[list[Future[Any]]]:
        """Have the blocks on the workers meanwhile.

        Afterwards they are let go of: they are still there if somebody else wants
        them. When they are wanted again, what is missing is computed again.
        """
        if not self._futures:
            self._futures.extend(*_persisted(self.client, [self._collection]))
        try:
            _raise_errors(self._futures)
            yield self._futures
        finally:
            release(self._futures)


def join(
    names: Sequence[Any],
    blocks: Sequence[Block],
    dtype: np.dtype[np.floating],
    gather: Callable[[list[Any]], list[Any]],
) -> Features:
    """Copy blocks into one array, a few at a time, so that they are never there twice.

    Parameters
    ----------
    names : sequence
        What `gather` knows the blocks by, in the order of their rows.
    blocks : sequence of Block
        What is known of them.
    dtype : dtype
        Of the array.
    gather : callable
        From some names to a list of blocks, which is used up.

    Returns
    -------
    ndarray or csr_array of shape (n_samples, n_features)
        All rows.
    """
    n_rows, n_features = sum(b.shape[0] for b in blocks), blocks[0].shape[1]
    sink: _DenseRows | _SparseRows
    if blocks[0].nnz is None:
        sink = _DenseRows((n_rows, n_features), dtype)
    else:
        nnz = sum(block.nnz or 0 for block in blocks)
        sink = _SparseRows((n_rows, n_features), nnz, dtype)
    for batch in _batches(names, blocks):
        fetched = gather(batch)
        while fetched:
            sink.append(_as_features(fetched.pop(0), ensure_all_finite=False))
    return sink.rows


class _DenseRows:
    """An array that is filled from the top."""

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[np.floating]) -> None:
        self.rows = np.empty(shape, dtype)
        self._n_rows = 0

    def append(self, block: Any) -> None:
        end = self._n_rows + len(block)
        self.rows[self._n_rows : end] = block
        self._n_rows = end


class _SparseRows:
    """Compressed rows that are filled from the top."""

    def __init__(
        self, shape: tuple[int, int], nnz: int, dtype: np.dtype[np.floating]
    ) -> None:
        index = index_dtype(shape, nnz)
        self._shape = shape
        self._data = np.empty(nnz, dtype)
        self._indices = np.empty(nnz, index)
        self._indptr = np.zeros(shape[0] + 1, index)
        self._n_rows = self._n_stored = 0

    def append(self, block: Any) -> None:
        stored = slice(self._n_stored, self._n_stored + block.nnz)
        self._data[stored] = block.data
        self._indices[stored] = block.indices
        ends = slice(self._n_rows + 1, self._n_rows + 1 + block.shape[0])
        np.add(block.indptr[1:], self._n_stored, out=self._indptr[ends])
        self._n_rows += block.shape[0]
        self._n_stored += block.nnz

    @property
    def rows(self) -> csr_array:
        return csr_array((self._data, self._indices, self._indptr), self._shape)


def _batches(names: Sequence[Any], blocks: Sequence[Block]) -> Iterator[list[Any]]:
    """Yield the names of consecutive blocks that are fetched together."""
    batch: list[Any] = []
    n_bytes = 0
    for name, block in zip(names, blocks, strict=True):
        if batch and n_bytes + block.nbytes > BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
        batch.append(name)
        n_bytes += block.nbytes
    if batch:
        yield batch


@dataclass(frozen=True)
class LyingBlocks:
    """Where the blocks of X lie, for a worker that is to join them.

    Not as arguments of a task: Dask would keep all of them on the worker until the
    task ends, beside the array that they are joined to, and copies of blocks that
    the user holds for some seconds more.

    Attributes
    ----------
    who_has : mapping
        From the keys of the blocks, in the order of their rows, to the addresses of
        the workers that have them.
    blocks : sequence of Block
        What is known of them.
    dtype : dtype
        Of the array to join them to.
    """

    who_has: Mapping[Any, Sequence[str]]
    blocks: Sequence[Block]
    dtype: np.dtype[np.floating]


def join_on_worker(
    lying: LyingBlocks, targets: tuple[np.ndarray, np.ndarray | None]
) -> Dataset:
    """Return the data set of one shard, its blocks fetched from the other workers."""
    worker = get_worker()

    def gather(keys: list[Any]) -> list[Any]:
        who_has = {key: lying.who_has[key] for key in keys}
        blocks: list[Any] = sync(worker.loop, _fetch, worker, who_has)
        return blocks

    X = join(list(lying.who_has), lying.blocks, lying.dtype, gather)
    return Dataset(X, *targets)


async def _fetch(worker: Worker, who_has: Mapping[Any, Sequence[str]]) -> list[Any]:
    """Return blocks from wherever they are; they do not become this worker's own."""
    found = {key: worker.data[key] for key in who_has if key in worker.data}
    others = {key: who_has[key] for key in who_has if key not in found}
    fetched, missing, failed, gone = await gather_from_workers(
        others, worker.rpc, who=worker.address
    )
    if missing or failed:
        raise WorkerLostError(
            f"{len(missing) + len(failed)} blocks of X were not to be had from "
            f"{', '.join(gone) or 'the workers that had them'}. Call again; what is "
            f"lost is computed again, if Dask knows how."
        )
    found |= fetched
    return [found[key] for key in who_has]


def join_on_workers(
    tasks: PinnedTasks, n_shards: int, dataset: Dataset
) -> list[Future[Any]]:
    """Make the data set of every shard on its worker; return when they are made.

    Parameters
    ----------
    tasks : PinnedTasks
        Of a run whose workers need the rows.
    n_shards : int
        Number of shards.
    dataset : Dataset
        Its X are `DaskFeatures`.
    """
    X: Any = dataset.X
    targets = tasks.place(
        "targets", [(dataset.y, dataset.sample_weight) for _ in range(n_shards)]
    )
    with X.held() as futures:
        lying = LyingBlocks(_who_has(X.client, futures), X.blocks, X.dtype)
        tasks.begin()
        rows = tasks.submit(
            [
                tasks.add(rank, "rows", join_on_worker, lying, targets[rank])
                for rank in range(n_shards)
            ]
        )
        release(targets)
        tasks.wait_for(*rows)
    for future in rows:
        if (error := tasks.error_of(future)) is not None:
            raise error
    return rows


def _who_has(
    client: Client, futures: Sequence[Future[Any]]
) -> dict[Any, Sequence[str]]:
    """Return where blocks lie, in their order."""
    addresses = client.who_has(list(futures))
    return {future.key: addresses.get(future.key, ()) for future in futures}


@contextmanager
def brought(
    client: Client | str | None, estimator_name: str, X: Any, y: Any, weight: Any
) -> Iterator[tuple[Any, Any, Any]]:
    """Give features, targets and weights such that none of them is a collection.

    Parameters
    ----------
    client : Client, str or None
        The estimator's parameter.
    estimator_name : str
        For messages.
    X, y, weight : collection, array-like or None
        One of them at least is a Dask collection.

    Yields
    ------
    X : DaskFeatures or array-like
        On a cluster, features that stay there.
    y, weight : array-like or None
        In this process.

    Raises
    ------
    ValueError
        If their numbers of rows differ, or X is not fit to train on.
    TypeError
        If a collection is neither an array nor a data frame.
    """
    given = {"X": X, "y": y, "sample_weight": weight}
    collections = {
        name: _of_whole_rows(name, value)
        for name, value in given.items()
        if is_dask_collection(value)
    }
    _check_lengths(given)
    with connected(client) as connection:
        if connection is None:
            here = compute_here(*collections.values())
            given |= dict(zip(collections, here, strict=True))
            yield given["X"], given["y"], given["sample_weight"]
            return
        held: list[Future[Any]] = []
        try:
            with explained(connection, (), "computing the data"):
                computed = _persisted(connection, list(collections.values()))
                futures: dict[str, list[Future[Any]]] = dict(
                    zip(collections, computed, strict=True)
                )
                for name in futures:
                    held += futures[name]
                if "X" in futures:
                    given["X"] = _described(
                        connection, collections["X"], futures.pop("X"), estimator_name
                    )
                for name, parts in futures.items():
                    given[name] = _stacked(connection.gather(parts))
                    release(parts)
            _check_lengths(given)
            yield given["X"], given["y"], given["sample_weight"]
        finally:
            release(held)


def _of_whole_rows(name: str, collection: Any) -> Any:
    """Return an array or a data frame whose blocks have all columns."""
    if hasattr(collection, "divisions"):
        return collection
    if not hasattr(collection, "chunks") or collection.ndim not in (1, 2):
        raise TypeError(
            f"{name} is a Dask {type(collection).__name__}; expected an Array of one "
            f"or two dimensions, a DataFrame or a Series."
        )
    if collection.ndim == 2 and np.isnan(collection.shape[1]):
        raise ValueError(
            f"the number of columns of {name} is unknown; call its method "
            f"compute_chunk_sizes before."
        )
    if collection.ndim == 2 and collection.numblocks[1] > 1:
        return collection.rechunk({1: -1})
    return collection


def header_of(collection: Any) -> Any:
    """Return one row of zeros with the columns and dtypes of a collection."""
    collection = _of_whole_rows("X", collection)
    if hasattr(collection, "columns"):
        import pandas as pd

        zeros = np.zeros((1, len(collection.columns)), int)
        frame = pd.DataFrame(zeros, columns=collection.columns)
        return frame.astype(dict(collection.dtypes))
    return np.zeros((1, *collection.shape[1:]), collection.dtype)


def _check_lengths(given: dict[str, Any]) -> None:
    """Compare the numbers of rows as far as they are known, and name who differs."""
    n_rows = {name: _n_rows(value) for name, value in given.items()}
    for name in ("y", "sample_weight"):
        if None not in (n_rows["X"], n_rows[name]) and n_rows["X"] != n_rows[name]:
            raise ValueError(
                f"X has {n_rows['X']} rows, but {name} has {n_rows[name]}. Give one "
                f"of {name} for each row of X."
            )


def _n_rows(value: Any) -> int | None:
    """Return the number of rows, None if it is unknown or none is meant."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return len(value) if isinstance(value, list | tuple) else None
    # Unknown ones are NaN in an array, and something to be computed in a frame.
    known = len(shape) > 0 and isinstance(shape[0], int | np.integer)
    return int(shape[0]) if known else None


def _persisted(client: Client, collections: list[Any]) -> list[list[Future[Any]]]:
    """Compute collections together; return the futures of their blocks."""
    return [
        sorted(futures_of(one), key=_place_of) for one in client.persist(collections)
    ]


def _place_of(future: Future[Any]) -> tuple[int, ...]:
    """Return where a block lies in its collection, from its key."""
    key: Any = future.key
    return tuple(key[1:])


def _described(
    client: Client, collection: Any, futures: list[Future[Any]], estimator_name: str
) -> DaskFeatures:
    """Check all blocks of X; return what is known of them."""
    told = client.map(
        describe, futures, estimator_name=estimator_name, pure=False, key="describe-X"
    )
    try:
        blocks: list[Block] = client.gather(told)
    finally:
        release(told)
    widths = sorted({block.shape[1] for block in blocks})
    if len(widths) > 1:
        raise ValueError(f"the blocks of X have different numbers of columns: {widths}")
    if len({block.nnz is None for block in blocks}) > 1:
        raise ValueError("some blocks of X are sparse and some are dense; make all one")
    dtype = np.result_type(*(block.dtype for block in blocks))
    return DaskFeatures(client, collection, futures, blocks, dtype)


def _stacked(parts: list[Any]) -> Any:
    """Put blocks of rows below each other."""
    if any(issparse(part) for part in parts):
        return vstack(parts, format="csr")
    if hasattr(parts[0], "iloc"):
        import pandas as pd

        return pd.concat(parts)
    return np.concatenate(parts)


def compute(client: Client | str | None, *values: Any) -> tuple[Any, ...]:
    """Return values, the Dask collections among them computed in one go."""
    with connected(client) as connection:
        if connection is None:
            return tuple(compute_here(*values))
        with explained(connection, (), "computing predictions"):
            futures = connection.compute(values)
            return tuple(connection.gather(futures))


def map_rows(
    client: Client | str | None, collection: Any, function: Callable[[Any], Any]
) -> Any:
    """Apply a function to every block of rows, when it is computed.

    Parameters
    ----------
    client : Client, str or None
        The estimator's parameter. A live client, or the active one, sends the
        function to the cluster at once, and Dask brings it to each worker that
        needs it; else it is part of the graph.
    collection : Array or DataFrame
        Features.
    function : callable
        From a block to an array of as many rows.

    Returns
    -------
    Array
        Of one chunk a block.
    """
    collection = _of_whole_rows("X", collection)
    meta = function(header_of(collection))[:0]
    shared = delayed(_sent(client, function))
    if hasattr(collection, "divisions"):
        return collection.map_partitions(
            predict_rows, shared, meta=meta, enforce_metadata=False
        )
    if meta.ndim == 1:
        return collection.map_blocks(
            predict_rows, shared, drop_axis=1, dtype=meta.dtype, meta=meta
        )
    chunks = collection.chunks[0], (meta.shape[1],)
    return collection.map_blocks(
        predict_rows, shared, chunks=chunks, dtype=meta.dtype, meta=meta
    )


def predict_rows(block: Any, function: Callable[[Any], Any]) -> Any:
    """Return what a function makes of a block."""
    return function(block)


def _sent(client: Client | str | None, function: Any) -> Any:
    """Return a function, or the future of it on a cluster that is at hand."""
    live = client if isinstance(client, Client) else active_client()
    if live is None:
        return function
    worker = next(iter(live.nthreads()), None)
    if worker is None:
        return function
    return live.scatter(
        function, workers=[worker], direct=reaches(live, worker), hash=False
    )


def _raise_errors(futures: list[Future[Any]]) -> None:
    """Wait for futures, and raise what one of them raised."""
    for future in futures:
        if (error := future.exception()) is not None:
            raise error


def release(futures: list[Future[Any]]) -> None:
    """Let go of futures, also of those that a traceback holds."""
    for future in futures:
        future.release()
    futures.clear()
