"""Dask arrays and data frames as features, targets and weights.

Features stay on the workers: each is told of every block where it lies, and each
worker of a fit copies all blocks, straight from the workers that have them,
into an array of its own. Targets and weights, a few numbers a row, come to the
client, which needs the classes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from dask.base import compute as compute_here
from dask.base import is_dask_collection
from distributed import Client, Future, futures_of
from scipy.sparse import issparse, vstack

from skdistmlp.cluster._dask import array_meta
from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.lookup import connected
from skdistmlp.cluster.client.workers import memory_limits, workers_of
from skdistmlp.cluster.data.blocks import (
    Block,
    BlockLocations,
    assemble_dataset,
    concatenate_blocks,
    describe,
)
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.versions import check_versions
from skdistmlp.exceptions import ClusterError
from skdistmlp.nn.types import Features
from skdistmlp.parallel.data import Dataset, RemoteFeatures


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
        with (
            self.held() as futures,
            translate_dask_errors(self.client, (), "fetching X"),
        ):
            return concatenate_blocks(
                futures, self.blocks, self.dtype, self.client.gather
            )

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


def assemble_datasets(
    tasks: Placement, n_shards: int, dataset: Dataset
) -> list[Future[Any]]:
    """Make the data set of every shard on its worker; return when they are made.

    Parameters
    ----------
    tasks : Placement
        Of a run whose workers need the rows.
    n_shards : int
        Number of shards.
    dataset : Dataset
        Its X are `DaskFeatures`.
    """
    X: Any = dataset.X
    targets = tasks.scatter(
        "targets", [(dataset.y, dataset.sample_weight) for _ in range(n_shards)]
    )
    with X.held() as futures:
        locations = BlockLocations(
            _block_locations(X.client, futures), X.blocks, X.dtype
        )
        tasks.begin()
        rows = tasks.submit(
            [
                tasks.add(rank, "rows", assemble_dataset, locations, targets[rank])
                for rank in range(n_shards)
            ]
        )
        release(targets)
        tasks.wait_for(*rows)
    for future in rows:
        if (error := tasks.error_of(future)) is not None:
            raise error
    return rows


def _block_locations(
    client: Client, futures: Sequence[Future[Any]]
) -> dict[Any, Sequence[str]]:
    """Return where blocks lie, in their order."""
    addresses = client.who_has(list(futures))
    return {future.key: addresses.get(future.key, ()) for future in futures}


@contextmanager
def resolve_inputs(
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
    ClusterError
        If a worker has another version of this package, if X is larger than the
        memory of all workers together, or if workers died while it was computed.
    """
    given = {"X": X, "y": y, "sample_weight": weight}
    collections = {
        name: of_whole_rows(name, value)
        for name, value in given.items()
        if is_collection(value)
    }
    _check_lengths(given)
    with connected(client) as connection:
        if connection is None:
            here = _by_kind(_compute_here, list(collections.values()))
            given |= dict(zip(collections, here, strict=True))
            yield given["X"], given["y"], given["sample_weight"]
            return
        held: list[Future[Any]] = []
        try:
            with translate_dask_errors(connection, (), "computing the data"):
                if "X" in collections:
                    check_versions(
                        connection, tuple(connection.nthreads()), lambda: None
                    )
                    _check_size(connection, collections["X"])
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
                # Not let go of yet: y may be X, or the weights be y.
                for name, parts in futures.items():
                    given[name] = _stacked(connection.gather(parts))
            _check_lengths(given)
            yield given["X"], given["y"], given["sample_weight"]
        finally:
            release(held)


def of_whole_rows(name: str, collection: Any) -> Any:
    """Return an array or a data frame whose blocks have all columns."""
    if is_frame(collection):
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


def is_collection(value: Any) -> bool:
    """Say whether a value is lazy; those of xarray, for one, may be or not."""
    return bool(is_dask_collection(value))


def is_frame(value: Any) -> bool:
    """Say whether a collection is made of parts of a data frame."""
    return hasattr(value, "divisions")


def header_of(collection: Any) -> Any:
    """Return one row of zeros with the columns and dtypes of a collection."""
    collection = of_whole_rows("X", collection)
    if hasattr(collection, "columns"):
        import pandas as pd

        zeros = np.zeros((1, len(collection.columns)), int)
        frame = pd.DataFrame(zeros, columns=collection.columns)
        return frame.astype(
            {
                name: _of_values(dtype)
                for name, dtype in zip(
                    collection.columns, collection.dtypes, strict=True
                )
            }
        )
    return np.zeros((1, *collection.shape[1:]), collection.dtype)


def _of_values(dtype: Any) -> Any:
    """Return the dtype of the numbers in a column: 0 may be no category."""
    categories = getattr(dtype, "categories", None)
    if categories is None:
        return dtype
    known = getattr(categories.dtype, "kind", "O") in "biuf"
    return categories.dtype if known else int


def _check_size(client: Client, X: Any) -> None:
    """Refuse a dense X of known size that all workers together have no room for.

    To compute it would kill them. What one worker would hold is known with the plan.
    """
    if is_frame(X) or not isinstance(array_meta(X), np.ndarray):
        return
    workers = workers_of(client)
    limits = memory_limits(client, workers)
    limit = sum(limits.values())
    # Unknown lengths make the size NaN, which is no more than anything.
    if 0 < len(limits) == len(workers) and X.nbytes > limit:
        raise ClusterError(
            f"X takes {X.nbytes:,} bytes, but the memory_limit of all workers together "
            f"is {limit:,} bytes. Use workers with more memory, more workers, fewer "
            f"rows or float32 features."
        )


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
    persisted = _by_kind(client.persist, collections)
    return [sorted(futures_of(one), key=_place_of) for one in persisted]


def _by_kind(
    call: Callable[[list[Any]], Sequence[Any]], values: Sequence[Any]
) -> list[Any]:
    """Call with all frames, then with all else: Dask warns of calls with both."""
    results = list(values)
    for frames in (True, False):
        places = [n for n, v in enumerate(values) if is_frame(v) == frames]
        if places:
            called = call([values[n] for n in places])
            for place, result in zip(places, called, strict=True):
                results[place] = result
    return results


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
    if widths != [expected := header_of(collection).shape[1]]:
        raise ValueError(
            f"X is said to have {expected} columns, but its blocks have {widths[0]}. "
            f"Give map_blocks, or whatever made X, the chunks that come of it."
        )
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
            return tuple(_by_kind(_compute_here, values))
        with translate_dask_errors(connection, (), "computing predictions"):
            futures = _by_kind(connection.compute, values)
            return tuple(connection.gather(futures))


def _compute_here(values: list[Any]) -> tuple[Any, ...]:
    return tuple(compute_here(*values))


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
