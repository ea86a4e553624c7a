"""Features that stay on the workers of a cluster until a fit needs them.

Each worker of a fit copies the rows that it needs into its own array, straight from the
workers that hold them. The client, which plans the fit, has only their descriptions.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import psutil
from distributed import Client, Future
from sklearn.base import BaseEstimator
from sklearn.utils import check_X_y
from sklearn.utils.validation import validate_data

from skdistmlp._version import __version__
from skdistmlp.cluster._dask import memory_limit_of_process
from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.rpc import submit_rpc
from skdistmlp.cluster.client.scheduler import await_scheduler
from skdistmlp.cluster.client.workers import choose_workers
from skdistmlp.cluster.data.assembly import (
    BlockLocations,
    RowsOfProcess,
    assemble_dataset,
)
from skdistmlp.cluster.data.block_digests import BlockDigests, check_none_changed
from skdistmlp.cluster.data.blocks import (
    Block,
    Extent,
    array_sink,
    copy_pieces,
    describe_block,
    index_dtype,
    whole_blocks,
)
from skdistmlp.cluster.data.dask_collections import (
    COMPUTING,
    SeparateBlocks,
    gather,
    header_of,
    naming_lost_data,
    persist_blocks,
    release,
    wait_for,
)
from skdistmlp.cluster.data.streaming import (
    checked_rows,
    computed_waves,
    fill_sinks,
    wait_for_all,
)
from skdistmlp.cluster.run.liveness import workers_around_silent
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.portable import PortableFunction
from skdistmlp.exceptions import ClusterError
from skdistmlp.nn.losses import Targets
from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.parallel.class_codes import ClassCodes
from skdistmlp.parallel.data import (
    PIECE_BYTES,
    BaseDataset,
    Dataset,
    PlacedRows,
    RowPlacement,
    RowStore,
)
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import (
    RowHolding,
    RowRange,
    RowsInRanges,
    dealt_rows,
    even_ranges,
    holders,
)
from skdistmlp.training.loop import Log, quiet


@dataclass(frozen=True)
class RemoteFeatures:
    """The blocks of a Dask array or data frame, on the workers of a cluster.

    Attributes
    ----------
    client : Client
        A connected client.
    collection : Array or DataFrame
        One column of blocks.
    futures : list of Future
        The computed blocks; empty while nothing needs them. See `held`.
    blocks : sequence of Block
        Their descriptions.
    dtype : dtype
        float32 or float64: of the array that the blocks are copied into.
    log : callable
        Takes lines for the user, if they want any.
    is_streamed : bool
        Whether blocks are computed a few at a time, since the memory of all workers
        does not hold them together. Their values are not checked yet then.
    estimator_name : str
        For messages.
    digests : BlockDigests
        Of streamed blocks, as they were placed or described before.
    """

    client: Client
    collection: Any
    futures: list[Future[Any]]
    blocks: Sequence[Block]
    dtype: np.dtype[np.floating]
    log: Log = quiet
    is_streamed: bool = False
    estimator_name: str = ""
    digests: BlockDigests = field(
        default_factory=BlockDigests, repr=False, compare=False
    )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return sum(block.shape[0] for block in self.blocks), self.blocks[0].shape[1]

    @property
    def nnz(self) -> int | None:
        """Number of values that sparse features store; None for dense ones."""
        stored = [block.nnz for block in self.blocks if block.nnz is not None]
        return sum(stored) if stored else None

    @property
    def nbytes(self) -> int:
        """Bytes of all features in the memory of one process."""
        shape, nnz = self.shape, self.nnz
        if nnz is None:
            return shape[0] * shape[1] * self.dtype.itemsize
        index = index_dtype(shape, nnz).itemsize
        return nnz * (self.dtype.itemsize + index) + (shape[0] + 1) * index

    def validated(
        self, estimator: BaseEstimator, y: Any, reset: bool, **checks: Any
    ) -> tuple[RemoteFeatures, np.ndarray]:
        """Check names and number of the columns, and y; workers checked the values.

        See `skdistmlp.estimators.inputs.InputFeatures`.
        """
        header = header_of(self.collection)
        validate_data(estimator, header, reset=reset, skip_check_array=True)
        # As many rows as targets: rows for validation may follow, and the number has
        # been checked.
        n_rows = y.shape[0] if hasattr(y, "shape") else len(y)
        rows = np.zeros((n_rows, 1))
        _, y = check_X_y(rows, y, multi_output=True, estimator=estimator, **checks)
        return self, y

    def with_targets(
        self, y: Targets | ClassCodes, sample_weight: FloatArray | None
    ) -> RemoteDataset:
        """Return the data set of these features."""
        return RemoteDataset(self, y, sample_weight)

    @property
    def as_rows(self) -> Callable[[Any, Block], Any]:
        """What turns a block that has not been checked yet into features."""
        return partial(checked_rows, estimator_name=self.estimator_name)

    def fetch(self) -> Features:
        """Return all features as an array or as compressed rows, in this process.

        Raises
        ------
        ClusterError
            If they do not fit into its memory.
        """
        self._check_room()
        if self.is_streamed:
            return self._fetch_streamed()
        with (
            translate_dask_errors(self.client, (), "fetching X"),
            self.held() as futures,
        ):
            return self._copied(futures, partial(gather, self.client))

    def _copied(
        self, names: Iterable[Any], gather: Callable[[list[Any]], list[Any]]
    ) -> Features:
        """Return all blocks, which `gather` returns by these names, as one array."""
        pieces = whole_blocks(names, self.blocks)
        sink = array_sink(Extent.of(pieces, self.blocks, self.dtype))
        fetched = copy_pieces(pieces, gather, sink)
        assert not isinstance(fetched, RowStore)
        return fetched

    def _fetch_streamed(self) -> Features:
        """Compute blocks and fetch them, a few at a time."""
        blocks, as_rows = SeparateBlocks(self.collection), self.as_rows

        def compute(numbers: list[int]) -> list[Any]:
            futures = blocks.compute(self.client, numbers)
            try:
                values = gather(self.client, futures, COMPUTING, self.log)
            finally:
                release(futures)
            return [
                as_rows(value, self.blocks[number])
                for value, number in zip(values, numbers, strict=True)
            ]

        with (
            translate_dask_errors(self.client, (), COMPUTING),
            naming_lost_data(self.client, self.collection),
        ):
            return self._copied(range(len(self.blocks)), compute)

    def described(self) -> Sequence[Block]:
        """Return the descriptions of all blocks, each with a digest of its values.

        Streamed blocks are computed for that, a few at a time. When they are placed,
        they have to be the same.

        Raises
        ------
        ClusterError
            If they are gone for good, or are not what they were before.
        """
        if not self.is_streamed:
            return self.blocks
        note = self.digests.placing()
        pieces = whole_blocks(range(len(self.blocks)), self.blocks)
        described: dict[int, Block] = {}
        with (
            translate_dask_errors(self.client, (), COMPUTING),
            naming_lost_data(self.client, self.collection),
        ):
            workers = choose_workers(self.client, None, log=self.log)
            # By all of them at once, as much as when the rows are placed.
            dealt = [pieces[rank :: len(workers)] for rank in range(len(workers))]
            waves = computed_waves(
                self.client, self.collection, dealt, workers, may_move=True
            )
            with closing(waves):
                for wave in waves:
                    futures = [one for each in wave.values() for one in each.futures]
                    numbers = [p.name for each in wave.values() for p in each.pieces]
                    found = described_blocks(
                        self.client, futures, self.estimator_name, self.log
                    )
                    note(numbers, [block.digest for block in found if block.digest])
                    described.update(zip(numbers, found, strict=True))
        return [described[number] for number in range(len(pieces))]

    def _check_room(self) -> None:
        """Raise if the features do not fit into this process's memory."""
        available = available_memory()
        if self.nbytes > available:
            raise ClusterError(
                f"X takes {self.nbytes:,} bytes, and this process, which is to train "
                f"on it, has {available:,} bytes of memory available. Train on the "
                f"workers, with engine='peers'."
            )

    @contextmanager
    def held(self) -> Iterator[list[Future[Any]]]:
        """Hold the blocks on the workers while the context lasts.

        On exit the futures are released, so that blocks computed for this fit do not
        take memory while it trains; blocks that the user has persisted stay. The next
        call recomputes what is missing by then.

        Raises
        ------
        ClusterError
            If they are not what they were before, or are gone for good.
        """
        try:
            with naming_lost_data(self.client, self.collection):
                if self.futures:
                    wait_for(self.client, self.futures, COMPUTING, self.log)
                else:
                    self._compute_again()
                yield self.futures
        finally:
            release(self.futures)

    def _compute_again(self) -> None:
        """Compute the blocks that are missing."""
        # In a fit that recovers from a worker that hangs, Dask does not know yet that
        # it does. Only then are tasks pinned: else workers that join may compute too.
        workers = workers_around_silent(self.client)
        self.futures.extend(*persist_blocks(self.client, [self.collection], workers))
        self._check_unchanged(workers)

    def _check_unchanged(self, workers: Sequence[str] | None) -> None:
        """Wait for blocks that are computed again, and raise if they have changed."""
        wait_for(self.client, self.futures, COMPUTING, self.log, workers)
        blocks = described_blocks(
            self.client, self.futures, self.estimator_name, self.log, workers
        )
        changed = [
            number
            for number, (old, new) in enumerate(zip(self.blocks, blocks, strict=True))
            if old.digest is not None
            and (old.shape, old.digest) != (new.shape, new.digest)
        ]
        check_none_changed(changed, "persist X")


@dataclass(frozen=True)
class RemoteDataset(BaseDataset):
    """Rows whose features are on the workers of a cluster.

    Attributes
    ----------
    features : RemoteFeatures
        Features.
    y : ndarray of shape (n_samples, n_outputs)
        Targets, in this process.
    sample_weight : ndarray of shape (n_samples,), or None
        Weights of the samples, in this process.
    """

    features: RemoteFeatures
    y: Targets | ClassCodes
    sample_weight: FloatArray | None = None

    @property
    def client(self) -> Client:
        """Dask client that reaches the features."""
        return self.features.client

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.features.shape[0]

    @property
    def nnz_per_row(self) -> float | None:
        """Mean number of stored values per row of sparse features; None for dense."""
        nnz = self.features.nnz
        return None if nnz is None else nnz / max(1, self.n_rows)

    @property
    def features_nbytes(self) -> int:
        """Bytes of all features in one process's memory."""
        return self.features.nbytes

    @property
    def is_in_blocks(self) -> bool:
        """Yes."""
        return True

    @property
    def fits_here(self) -> bool:
        """Whether this process has memory for all features."""
        return self.features_nbytes + self.piece_bytes <= available_memory()

    @property
    def piece_bytes(self) -> int:
        """Bytes of what a worker computes at a time: some blocks, or one large one."""
        sizes = [block.nbytes for block in self.features.blocks]
        return max(*sizes, min(sum(sizes), PIECE_BYTES))

    def bytes_on_workers(self) -> dict[str, int]:
        """Return the bytes of the features of the blocks that each worker has.

        As many as they will take in the fit, whatever the dtype of the blocks.
        """
        futures, blocks = self.features.futures, self.features.blocks
        found: Counter[str] = Counter()
        # A streamed array has no blocks yet.
        if futures:
            where = block_locations(self.client, futures)
            stored = max(1, sum(block.nbytes for block in blocks))
            for future, block in zip(futures, blocks, strict=True):
                n_bytes = round(self.features_nbytes * block.nbytes / stored)
                found.update(dict.fromkeys(where[future.key], n_bytes))
        return found

    def content(self) -> Sequence[Any]:
        """Return what the workers find out of the blocks.

        The same whether or not they are streamed, which depends on the cluster. Those
        that are, nobody has seen yet: they are computed once more than to train on
        them.
        """
        described = self.features.described()
        blocks = [(b.shape, b.dtype, b.nnz, b.digest) for b in described]
        return blocks, self.y, self.sample_weight

    def prepared(self, dtype: np.dtype[np.floating]) -> RemoteDataset:
        """Return the same data, whose blocks will be copied into arrays of `dtype`."""
        return replace(self, features=replace(self.features, dtype=dtype))

    def to_local(self) -> Dataset:
        """Fetch all features to this process."""
        return Dataset(self.features.fetch(), self.y, self.sample_weight)

    def place_on(
        self, placement: RowPlacement, grid: Grid, holding: RowHolding
    ) -> PlacedRows:
        """Have each worker get its rows of the blocks; return when all have."""
        assert isinstance(placement, Placement)
        features, ranks = self.features, range(grid.n_ranks)
        targets = placement.scatter(
            "targets", [(self.y, self.sample_weight) for _ in ranks]
        )
        if features.is_streamed:
            with naming_lost_data(self.client, features.collection):
                return self._stream_blocks(placement, targets, grid, holding)
        # Held until the last worker has its copy: the tasks below do not depend on
        # the blocks, so nothing else would keep Dask from dropping them.
        with features.held() as futures:
            locations = BlockLocations(
                block_locations(self.client, futures), features.blocks, features.dtype
            )
            where = [locations.who_has[future.key] for future in futures]
            owns = divide_blocks(
                features.blocks, where, placement.workers, grid, holding
            )
            add = placement.add
            placement.begin()
            rows = placement.submit(
                [
                    add(
                        rank,
                        "rows",
                        assemble_dataset,
                        locations,
                        targets[rank],
                        owns[rank],
                    )
                    for rank in ranks
                ]
            )
            # The submitted tasks hold them from here.
            release(targets)
            wait_for_all(placement, rows)
        return PlacedRows(rows, owns[0].distribution)

    def _stream_blocks(
        self,
        placement: Placement,
        targets: list[Future[Any]],
        grid: Grid,
        holding: RowHolding,
    ) -> PlacedRows:
        """Have each worker compute its blocks, a few at a time, and write its rows."""
        features = self.features
        blocks, names = features.blocks, range(len(features.blocks))
        nowhere: list[Sequence[str]] = [() for _ in blocks]
        owns = divide_blocks(blocks, nowhere, placement.workers, grid, holding)
        pieces = [own.pieces(names, blocks) for own in owns]
        rows = fill_sinks(
            placement,
            targets,
            owns,
            [Extent.of(each, blocks, features.dtype) for each in pieces],
            computed_waves(self.client, features.collection, pieces, placement.workers),
            features.as_rows,
            features.digests.placing(),
        )
        release(targets)
        return PlacedRows(rows, owns[0].distribution)


def described_blocks(
    client: Client,
    futures: list[Future[Any]],
    estimator_name: str,
    log: Log,
    workers: Sequence[str] | None = None,
) -> list[Block]:
    """Check blocks of X on their workers; return what these say of them.

    With `workers`, only these may do so: Dask moves tasks away from where their blocks
    are.
    """
    describe = partial(describe_block, estimator_name=estimator_name)
    described = client.map(
        # Dask may choose a worker that has joined after the check of versions.
        PortableFunction("describe-X", __version__),
        futures,
        pickled=pickle.dumps(describe),
        pure=False,
        key="describe-X",
        workers=workers,
    )
    try:
        blocks: list[Block] = gather(client, described, COMPUTING, log, workers)
    finally:
        release(described)
    return blocks


def available_memory() -> int:
    """Return how many bytes this process may still allocate, roughly.

    Dask knows the limits of containers.
    """
    within_limit = memory_limit_of_process() - psutil.Process().memory_info().rss
    return min(psutil.virtual_memory().available, within_limit)


def divide_blocks(
    blocks: Sequence[Block],
    where: Sequence[Sequence[str]],
    workers: Sequence[str],
    grid: Grid,
    holding: RowHolding,
) -> list[RowsOfProcess]:
    """Return which rows each rank gets, so that as few as possible of them move.

    Parameters
    ----------
    blocks : sequence of Block
        Descriptions of all blocks.
    where : sequence of sequence of str
        Addresses of the workers that have each of them.
    workers : sequence of str
        Address of the worker of each rank.
    grid : Grid
        The workers.
    holding : RowHolding
        Which features each of them gets.
    """
    everything = dealt_rows(grid, holding)
    n_shards, processes = everything.n_shards, holders(grid, holding.form)
    n_parts = grid.n_replicas * n_shards
    if holding.form == "all" or n_parts == 1:
        return [RowsOfProcess(*one, everything, holding) for one in processes]
    parts_of: dict[str, list[int]] = {}
    for worker, (replica, shard) in zip(workers, processes, strict=True):
        parts_of.setdefault(worker, []).append(replica * n_shards + shard)
    at = [
        sorted({part for worker in held for part in parts_of.get(worker, ())})
        for held in where
    ]
    sizes = [block.shape[0] for block in blocks]
    divided = even_ranges(
        list(zip(sizes, at, strict=True)),
        n_parts,
        [share for share in holding.shares for _ in range(n_shards)],
    )
    ranges = [
        RowRange(start, stop, *divmod(part, n_shards)) for start, stop, part in divided
    ]
    distribution = RowsInRanges(tuple(ranges), grid.n_replicas, n_shards)
    return [
        RowsOfProcess(*one, distribution, holding, is_whole=False) for one in processes
    ]


def block_locations(
    client: Client, futures: Sequence[Future[Any]]
) -> dict[Any, Sequence[str]]:
    """Return the addresses of the workers that hold each block, in their order."""
    asking = submit_rpc(client, client.who_has, list(futures))
    addresses: dict[Any, Sequence[str]] = await_scheduler(client, asking)
    return {future.key: addresses.get(future.key, ()) for future in futures}
