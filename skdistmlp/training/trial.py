"""Steps that are timed: what a process computes in a job, without its exchanges."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.sparse import csr_array

from skdistmlp.nn.layers import Network
from skdistmlp.nn.losses import Targets
from skdistmlp.nn.optimizers import init
from skdistmlp.nn.update_rules import UpdateRule
from skdistmlp.parallel.data import BaseDataset, Dataset
from skdistmlp.parallel.grid import Grid, optimizer_parts
from skdistmlp.parallel.local_ops import LocalOps
from skdistmlp.parallel.rows import COPIES, dealt_rows
from skdistmlp.parallel.shard import ShardState
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.parallel.unconnected import Unconnected
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.step import backpropagate, training_step

MAX_FLOP = 1e9
"""Arithmetic of a step that is timed: 13 ms at 75 GFLOP/s. What a step with more rows
takes is computed from two with fewer, since products take as long per row."""

MIN_ROWS = 96
"""The fewest rows of such a step, on each replica: with fewer, products are slower per
row."""

MIN_STEPS = 2
"""Steps that are timed, at least, with each number of rows."""

TIMED_S = 0.02
"""Seconds for which steps with as many rows are timed, at least."""

EXTRAPOLATED_S = 0.06
"""The same where a step with many more rows is computed from them: an error grows with
the rows."""

DRAWN_PARAMETERS = 10_007
"""Random parameters, which are repeated."""

SAMPLE_ROWS = 64
"""Rows whose targets are sent; those of a step repeat them."""

LEARNING_RATE = 1e-6
"""So small that the made-up training cannot diverge."""

GoesOn: TypeAlias = Callable[[bool], bool]
"""Called after each step, with whether this process would time another; says whether
all do. Where others are timed at the same time it waits for them, as a step does."""


def alone(wants_more: bool) -> bool:
    """Do what this process wants."""
    return wants_more


class StepSeconds(NamedTuple):
    """Seconds of a step, from its begin.

    Attributes
    ----------
    own : float
        Until this process has computed.
    together : float
        Until all have.
    """

    own: float
    together: float


@dataclass(frozen=True)
class Trial:
    """A job of which some steps are timed, on features that are made up.

    Attributes
    ----------
    network : Network
        The whole network.
    dtype : dtype
        Of parameters and features.
    rule : UpdateRule or None
        The optimiser; without one, parameters are not updated.
    ema_decay : float or None
        That of the moving average of the parameters.
    n_rows : int
        Rows of a mini-batch, or of a block.
    nnz_per_row : float or None
        Stored numbers per row of sparse features; None if they are dense.
    targets : ndarray of shape (n_samples, n_outputs)
        Targets of a few rows.
    """

    network: Network
    dtype: np.dtype[np.floating]
    rule: UpdateRule | None
    ema_decay: float | None
    n_rows: int
    nnz_per_row: float | None
    targets: Targets

    @classmethod
    def of(cls, job: TrainingJob, dataset: BaseDataset, n_rows: int) -> "Trial":
        """Return the trial of steps of a job with this number of rows."""
        return cls(
            job.network,
            job.dtype,
            job.rule,
            job.ema_decay,
            n_rows,
            dataset.nnz_per_row,
            dataset.targets(slice(0, SAMPLE_ROWS)),
        )

    @property
    def key(self) -> tuple[object, ...]:
        """What the seconds of a step depend on."""
        nnz = self.nnz_per_row
        return (
            repr(self.network),
            self.dtype.name,
            repr(self.rule),
            self.ema_decay,
            self.n_rows,
            None if nnz is None else float(f"{nnz:.2g}"),
        )

    def step_s(self, grid: Grid) -> float:
        """Return the seconds of a step of the first process of a grid, alone."""
        return self.step_seconds(grid).own

    def step_seconds(self, grid: Grid, goes_on: GoesOn = alone) -> StepSeconds:
        """Return the seconds of a step of the first process of a grid.

        The median of a few steps. Nothing is exchanged, and nothing is kept.

        Parameters
        ----------
        grid : Grid
            The grid.
        goes_on : callable
            See `GoesOn`.
        """
        n_rows = self.rows_timed(grid)
        step = self._new_step(grid, n_rows)
        # It allocates what the others use.
        step(n_rows)
        if n_rows == self.n_rows:
            return _timed(partial(step, n_rows), goes_on, TIMED_S)
        most, fewer = (
            _timed(partial(step, n), goes_on, EXTRAPOLATED_S)
            for n in (n_rows, n_rows // 2)
        )

        def extrapolated(most_s: float, fewer_s: float) -> float:
            row_s = max(0.0, most_s - fewer_s) / (n_rows - n_rows // 2)
            return most_s + (self.n_rows - n_rows) * row_s

        return StepSeconds(*map(extrapolated, most, fewer))

    def rows_timed(self, grid: Grid) -> int:
        """Return the most rows of a step that is timed, of all replicas."""
        flop_per_row = self._flop_per_row() / grid.n_shards
        most = grid.n_replicas * max(MIN_ROWS, int(MAX_FLOP / flop_per_row))
        return min(self.n_rows, most)

    def _flop_per_row(self) -> float:
        n_features, *units = self.network.layer_units
        first = n_features if self.nnz_per_row is None else self.nnz_per_row
        hidden = sum(a * b for a, b in pairwise(units))
        # Rows without stored features cost something too.
        return max(1.0, 2.0 * (2 * first * units[0] + 3 * hidden))

    def _new_step(self, grid: Grid, max_rows: int) -> Callable[[int], None]:
        """Return a function that takes a step with some number of rows."""
        split = NetworkSplit.even(self.network.layer_units, grid.n_shards)
        random = np.random.default_rng(0)
        n_parameters = split.layout(0).n_parameters
        # Drawn for all of them, they would take longer than a step.
        drawn = 0.01 * random.standard_normal(DRAWN_PARAMETERS).astype(self.dtype)
        parameters: Any = np.resize(drawn, n_parameters)
        optimizer = None
        if self.rule is not None:
            own = optimizer_parts(n_parameters, grid.n_replicas)[0].columns
            optimizer = init(self.rule, parameters[own], self.ema_decay)
        state = ShardState(parameters, optimizer)
        if self.network.has_dropout:
            state = replace(state, dropout_seed=0)
        communicator = Unconnected(grid.n_ranks, grid)
        dataset = self._dataset(grid, max_rows, random)
        ops = LocalOps(self.network, split, state, dataset, communicator, max_rows)

        def step(n_rows: int) -> None:
            rows = np.arange(n_rows)
            if self.rule is None:
                backpropagate(ops, rows, rows)
            else:
                training_step(ops, rows, LEARNING_RATE)

        return step

    def _dataset(self, grid: Grid, n_rows: int, random: np.random.Generator) -> Dataset:
        """Return rows of which the first replica has its own."""
        n_features = self.network.layer_units[0]
        X: Any
        if self.nnz_per_row is None:
            X = random.random((n_rows, n_features), np.float32).astype(self.dtype)
        else:
            n_stored = min(n_features, max(1, round(self.nnz_per_row)))
            columns = random.integers(0, n_features // n_stored, (n_rows, n_stored))
            columns += np.arange(n_stored) * (n_features // n_stored)
            starts = np.arange(0, columns.size + 1, n_stored)
            numbers = random.random(columns.size, np.float32).astype(self.dtype)
            X = csr_array((numbers, columns.ravel(), starts), (n_rows, n_features))
        y: Any = np.resize(self.targets, (n_rows, self.targets.shape[1]))
        distribution = dealt_rows(grid, COPIES)
        return Dataset(X, y).part(distribution, 0)


def _timed(step: Callable[[], None], goes_on: GoesOn, timed_s: float) -> StepSeconds:
    """Return the medians of the seconds of a few steps."""
    own_s: list[float] = []
    each_s: list[float] = []
    is_going_on, begun = True, time.perf_counter()
    while is_going_on:
        step()
        own_s.append(time.perf_counter() - begun)
        n_steps = len(own_s)
        is_going_on = goes_on(n_steps < MIN_STEPS or sum(each_s) < timed_s)
        ended = time.perf_counter()
        each_s.append(ended - begun)
        begun = ended
    return StepSeconds(median(own_s), median(each_s))
