"""Steps that are timed: what a process computes in a job, without its exchanges."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median_low
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.sparse import csr_array

from skdistmlp.nn import compiled
from skdistmlp.nn.layers import Network
from skdistmlp.nn.losses import Targets
from skdistmlp.nn.optimizers import init
from skdistmlp.nn.update_rules import UpdateRule
from skdistmlp.parallel.data import BaseDataset, Dataset
from skdistmlp.parallel.grid import Grid, optimizer_parts
from skdistmlp.parallel.local_ops import LocalOps
from skdistmlp.parallel.rows import COPIES, dealt_rows
from skdistmlp.parallel.shard import ShardState
from skdistmlp.parallel.split import NetworkSplit, count_parameters
from skdistmlp.parallel.unconnected import Unconnected
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.narrowing import narrowed
from skdistmlp.training.step import backpropagate, training_step

MAX_FLOP = 5e8
"""Arithmetic of a step that is timed: 7 ms at 75 GFLOP/s. Of one with more rows, fewer
are timed, and the optimiser apart from them: products take as long per row."""

MIN_ROWS = 64
"""The fewest rows of such a step, on each replica: with fewer, products are slower per
row."""

FIRST_ROWS = 16
"""Rows, on each replica, of a first step that is not timed: it allocates what others
use, and with all rows it would take as long as one of them."""

MIN_STEPS = 2
"""Steps that are timed, at least."""

TIMED_S = 0.01
"""Seconds for which steps are timed, at least. With 0.02, forecasts varied as much."""

MAX_PARAMETERS = 1_000_000
"""Parameters of a network whose products are timed, about. Of a larger one the widest
layers are made narrower, which leaves time for more rows: products of few rows are
slower, those of layers with several hundred neurons are not."""

MAX_UPDATED = 2_000_000
"""Parameters that a process updates where the optimiser is timed, about: with the
gradient and their moments they take 32 MB, and fit in few caches, as those of a larger
network. Of a network of which a shard has fewer, it updates as many as in the fit."""

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
        The network whose steps are timed: the job's own, or where that is large, one
        with narrower layers, in which an operation takes about as long.
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
    runs_compiled : bool
        Whether the steps of the fit ask for compiled code, which those of some
        optimisers do not, and update enough parameters for numba to be loaded: then it
        is loaded before steps are timed, as nearly all those of the fit run compiled.
    updated : Network or None
        The network of the job, if `network` is narrower. The optimiser is timed on more
        of its parameters: see `network_updated`.
    """

    network: Network
    dtype: np.dtype[np.floating]
    rule: UpdateRule | None
    ema_decay: float | None
    n_rows: int
    nnz_per_row: float | None
    targets: Targets
    runs_compiled: bool = False
    updated: Network | None = None

    @classmethod
    def of(
        cls, job: TrainingJob, dataset: BaseDataset, n_rows: int, n_steps: float = 0.0
    ) -> "Trial":
        """Return the trial of steps of a job.

        Parameters
        ----------
        job : TrainingJob
            The job.
        dataset : BaseDataset
            All rows.
        n_rows : int
            Rows of a step.
        n_steps : float
            Steps of the whole fit.
        """
        n_updates = n_steps * count_parameters(job.network.layer_units)
        whole, targets = job.network, dataset.targets(slice(0, SAMPLE_ROWS))
        network = narrowed(
            whole,
            MAX_PARAMETERS,
            dataset.nnz_per_row,
            # Some losses have several outputs for each target.
            narrows_outputs=targets.shape[1] == whole.layer_units[-1],
        )
        trial = cls(
            network,
            job.dtype,
            job.rule,
            job.ema_decay,
            n_rows,
            dataset.nnz_per_row,
            targets[:, : network.layer_units[-1]],
            updated=None if job.rule is None or network == whole else whole,
        )
        return trial.of_updates(n_updates)

    def of_updates(self, n_updates: float) -> "Trial":
        """Return the trial of the same steps in a fit of another length.

        Parameters
        ----------
        n_updates : float
            Parameters that a single process would update in it, step by step.
        """
        is_long = n_updates > compiled.UPDATES_BEFORE_LOADING
        runs_compiled = is_long and bool(self._ask_for_kernels(loads=False))
        return replace(self, runs_compiled=runs_compiled)

    @property
    def key(self) -> tuple[object, ...]:
        """What the seconds of a step depend on.

        Of a hyperparameter that is a number, no more than whether it is used: a step
        does the same whatever its value, and the candidates of a search share one
        measurement, and with it a plan.
        """
        network, nnz = self.network, self.nnz_per_row
        output = network.output
        return (
            tuple(
                (layer.fan_in, layer.fan_out, repr(layer.activation), layer.dropout > 0)
                for layer in network.layers
            ),
            output if isinstance(output, str) else type(output),
            network.alpha > 0,
            network.max_grad_norm is not None,
            self.dtype.name,
            _kind_of(self.rule),
            self.ema_decay is not None,
            self.n_rows,
            None if nnz is None else float(f"{nnz:.2g}"),
            self.runs_compiled,
            None if self.updated is None else self.updated.layer_units,
        )

    def load_kernels(self) -> None:
        """Load the compiled code that steps of a long fit run.

        `steps_seconds` would load it too, but later: it takes about a second in a
        process that has not loaded numba before.
        """
        if self.runs_compiled:
            self._ask_for_kernels(loads=True)

    @property
    def bytes_to_load(self) -> int:
        """Bytes that the compiled code will take in this process, and does not yet."""
        return compiled.bytes_to_load() if self.runs_compiled else 0

    def _ask_for_kernels(self, *, loads: bool) -> set[compiled.Kernel]:
        """Return the kernels that a step asks for.

        Parameters
        ----------
        loads : bool
            Whether they are loaded.
        """
        # With the same layers and optimiser, it asks for the same code.
        tiny = replace(
            self,
            network=narrowed(self.network, 0, None, narrows_outputs=False),
            n_rows=len(self.targets),
            updated=None,
        )
        with compiled.uncounted(loads=loads) as asked_for:
            tiny._operations(Grid(1), tiny.n_rows).step()
        return asked_for

    def steps_seconds(
        self, grids: Sequence[Grid], goes_on: GoesOn = alone, waits_s: float = 0.0
    ) -> list[StepSeconds]:
        """Return the seconds of a step of the first process of each grid.

        Medians of a few steps. Nothing is exchanged, and nothing is kept.

        Parameters
        ----------
        grids : sequence of Grid
            Grids; the first is a single process.
        goes_on : callable
            See `GoesOn`.
        waits_s : float
            Seconds that this takes if nobody is late, which are not of the step.
        """
        timed = partial(_timed, goes_on=goes_on, waits_s=waits_s)
        parts: dict[Grid, _StepParts] = {}
        with compiled.uncounted(loads=self.runs_compiled):
            for grid in grids:
                parts[grid] = self._parts(grid, timed, parts)
        return [parts[g].of_rows(self.n_rows / g.n_replicas) for g in grids]

    def _parts(
        self,
        grid: Grid,
        timed: Callable[[Callable[[], object]], StepSeconds],
        others: Mapping[Grid, "_StepParts"],
    ) -> "_StepParts":
        """Time what a step of the first process of a grid consists of.

        Parameters
        ----------
        grid : Grid
            The grid.
        timed : callable
            Times a part.
        others : mapping of Grid to _StepParts
            What was timed before: of a single process, if `grid` has several.
        """
        if not self._is_timed(grid):
            # It does the same for fewer rows, which are many still.
            updated = _updated_by_replica(grid.n_replicas, others)
            return replace(others[Grid(1)], updated=updated)
        n_rows = self.rows_timed(grid)
        operations, own_rows = self._operations(grid, n_rows), n_rows / grid.n_replicas
        if not self._is_in_parts(grid):
            return _StepParts(own_rows, timed(operations.step))
        updated = StepSeconds(0.0, 0.0)
        computed = timed(operations.compute)
        if self.updated is None:
            if self.rule is not None:
                updated = timed(operations.update)
        elif _is_of_replicas(grid):
            updated = _updated_by_replica(grid.n_replicas, others)
        else:
            # Before the wide network is there: both have gradients and moments.
            del operations
            updated = self._optimizer_seconds(grid, timed)
        return _StepParts(own_rows, computed, updated)

    def _optimizer_seconds(
        self, grid: Grid, timed: Callable[[Callable[[], object]], StepSeconds]
    ) -> StepSeconds:
        """Time the optimiser on a wider network; return what `network` has of that."""
        wide = self.network_updated(grid)
        targets: Any = self.targets
        if self._has_targets_of_all:
            targets = np.resize(targets, (len(targets), wide.layer_units[-1]))
        trial = replace(self, network=wide, targets=targets)
        each_s = timed(trial._operations(grid, FIRST_ROWS * grid.n_replicas).update)
        n_own, n_timed = (
            NetworkSplit.even(network.layer_units, grid.n_shards).layout(0).n_parameters
            for network in (self.network, wide)
        )
        return StepSeconds(*(n_own / n_timed * seconds for seconds in each_s))

    def network_updated(self, grid: Grid) -> Network:
        """Return the network whose optimiser is timed on a grid.

        Where that of the job is large, what a process has of `network` might fit in a
        cache, although what it has in the fit does not.
        """
        if self.updated is None:
            return self.network
        return narrowed(
            self.updated,
            MAX_UPDATED * grid.n_shards,
            self.nnz_per_row,
            narrows_outputs=self._has_targets_of_all,
        )

    @property
    def _has_targets_of_all(self) -> bool:
        """Whether the targets have a column for each output."""
        return self.targets.shape[1] == self.network.layer_units[-1]

    def _operations(self, grid: Grid, n_rows: int) -> "_Operations":
        """Return what the first process of a grid does with a number of rows.

        With a few of them it has done it once.
        """
        ops = self._open(grid, n_rows)
        rows = np.arange(n_rows)
        few = rows[: FIRST_ROWS * grid.n_replicas]
        # It allocates what the others use, and loads what is to run compiled.
        backpropagate(ops, few, few)
        compute = partial(backpropagate, ops, rows, rows)
        update = partial(ops.update, rows, LEARNING_RATE)
        if self.rule is None:
            return _Operations(compute, compute, update)
        update()
        step = partial(training_step, ops, rows, LEARNING_RATE)
        return _Operations(step, compute, update)

    def n_rows_timed(self, grids: Sequence[Grid]) -> list[int]:
        """Return the rows of the steps that are timed on each grid, of all replicas.

        0 for those of which no steps are: see `steps_seconds`.
        """
        return [self.rows_timed(grid) if self._is_timed(grid) else 0 for grid in grids]

    def _is_timed(self, grid: Grid) -> bool:
        """Whether a grid's steps are timed, or those of a single process are enough."""
        if not _is_of_replicas(grid) or not self._is_in_parts(Grid(1)):
            return True
        # Of a single process there were more, which are faster per row.
        return self.n_rows < MIN_ROWS * grid.n_replicas

    def _is_in_parts(self, grid: Grid) -> bool:
        """Whether the optimiser is timed apart from the rest of a grid's step."""
        return self.updated is not None or self.rows_timed(grid) < self.n_rows

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

    def _open(self, grid: Grid, max_rows: int) -> LocalOps:
        """Return the operations of the first process of a grid."""
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
        return LocalOps(self.network, split, state, dataset, communicator, max_rows)

    def _dataset(
        self, grid: Grid, max_rows: int, random: np.random.Generator
    ) -> Dataset:
        """Return as many rows, with the features of those of the first replica."""
        n_features = self.network.layer_units[0]
        distribution = dealt_rows(grid, COPIES)
        n_rows = distribution.n_own_of_each(0, max_rows)[0]
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
        y: Any = np.resize(self.targets, (max_rows, self.targets.shape[1]))
        return Dataset(X, y, None, distribution, is_whole=grid.n_replicas == 1)


class _Operations(NamedTuple):
    """What can be timed.

    Attributes
    ----------
    step : callable
        A whole step.
    compute, update : callable
        Its two parts: the gradient, and what the optimiser makes of it.
    """

    step: Callable[[], object]
    compute: Callable[[], object]
    update: Callable[[], object]


@dataclass(frozen=True)
class _StepParts:
    """What a step consists of.

    Attributes
    ----------
    n_rows : float
        Rows that were computed.
    computed : StepSeconds
        Of these rows, in proportion to them; or of the whole step.
    updated : StepSeconds
        Of the optimiser, if it was timed apart.
    """

    n_rows: float
    computed: StepSeconds
    updated: StepSeconds | None = None

    def of_rows(self, n_rows: float) -> StepSeconds:
        """Return the seconds of a step with a number of rows."""
        if self.updated is None:
            return self.computed
        times = n_rows / self.n_rows
        pairs = zip(self.computed, self.updated, strict=True)
        return StepSeconds(*(times * computed + updated for computed, updated in pairs))


def _is_of_replicas(grid: Grid) -> bool:
    """Return whether a grid has several replicas, each of one process."""
    return grid.n_shards == 1 and grid.n_replicas > 1


def _updated_by_replica(
    n_replicas: int, others: Mapping[Grid, _StepParts]
) -> StepSeconds:
    """Return what the optimiser takes on one of some replicas, which divide its work.

    It updates as many parameters as one of as many shards. They may fit in its cache:
    if that was not timed, it counts as no faster than the whole network.
    """
    of_shard = others.get(Grid(n_replicas))
    if of_shard is not None and of_shard.updated is not None:
        return of_shard.updated
    whole = others[Grid(1)].updated
    assert whole is not None
    return StepSeconds(*(seconds / n_replicas for seconds in whole))


def _kind_of(rule: UpdateRule | None) -> tuple[object, ...]:
    """Return what the seconds of an update depend on: the rule, and its flags."""
    flags = () if rule is None else vars(rule).items()
    return type(rule), *(item for item in flags if isinstance(item[1], bool))


def _timed(part: Callable[[], object], goes_on: GoesOn, waits_s: float) -> StepSeconds:
    """Return the medians of the seconds of a few steps, or of a part of them."""
    own_s: list[float] = []
    each_s: list[float] = []
    # All begin at the same time, however long each has taken to load and to allocate.
    is_going_on, begun = goes_on(True), time.perf_counter()
    while is_going_on:
        part()
        own_s.append(time.perf_counter() - begun)
        wants_more = len(own_s) < MIN_STEPS or sum(each_s) < TIMED_S
        is_going_on = goes_on(wants_more)
        ended = time.perf_counter()
        each_s.append(ended - begun)
        begun = ended
    # Of two, the shorter one: what else runs on a machine makes them longer only.
    together_s, own = median_low(each_s), median_low(own_s)
    # On a busy machine, the waits of a tiny network may take less than that one did.
    return StepSeconds(own, max(together_s / 2, together_s - waits_s))
