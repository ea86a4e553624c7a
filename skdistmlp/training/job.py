"""A training job as a value: every engine carries out the same job."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from scipy.optimize import OptimizeResult

from skdistmlp.nn.layers import Network
from skdistmlp.nn.optimizers import init
from skdistmlp.nn.update_rules import UpdateRule
from skdistmlp.parallel.data import BaseDataset, Dataset
from skdistmlp.parallel.grid import Grid, optimizer_parts
from skdistmlp.parallel.initial import draw_parameters
from skdistmlp.parallel.ops import OpenNetwork
from skdistmlp.parallel.shard import ShardState, take_state
from skdistmlp.parallel.split import NetworkSplit, ShardLayout
from skdistmlp.training.hold_out import BLOCK_ROWS, ScoreOfRows, ValidationRows
from skdistmlp.training.lbfgs import IterativeMinimisation, blocks_of, minimise
from skdistmlp.training.loop import EpochOptions, Log, Pause, quiet, train_epochs
from skdistmlp.training.progress import LbfgsProgress, Outcome
from skdistmlp.training.scipy_lbfgs import LbfgsOptions
from skdistmlp.training.state import TrainingState


class Method(Protocol):
    """A way to train: in epochs of mini-batches, or on all rows at once."""

    @property
    def n_spare_arrays(self) -> int:
        """Number of arrays of a shard's parameters beyond those of every training."""

    @property
    def needs_all_features(self) -> bool:
        """Whether each process needs the features of rows that others compute."""

    @property
    def mixes_rows(self) -> bool:
        """Whether the rows of a mini-batch come from all over the data set."""

    def max_rows(self, dataset: BaseDataset, network: Network, itemsize: int) -> int:
        """Return the maximum number of rows of a step or block."""

    def for_run(self) -> "MethodRun":
        """Return what carries it out, once."""


class MethodRun(Protocol):
    """A method while one run carries it out, which may keep things between pauses."""

    def begin(
        self, network: OpenNetwork[Any], dataset: Dataset, state: TrainingState
    ) -> TrainingState:
        """Return the state that training starts from, or `state` to continue it."""

    def advance(
        self,
        network: OpenNetwork[Any],
        dataset: Dataset,
        state: TrainingState,
        pause: Pause | None,
        log: Log,
    ) -> TrainingState:
        """Train to the end or to a pause, where the method has any."""

    def close(self) -> None:
        """Give up what it keeps between pauses; there may be nothing."""


@dataclass(frozen=True)
class EpochTraining:
    """Training in epochs of mini-batches.

    Attributes
    ----------
    options : EpochOptions
        Batch size and stopping rules.
    hold_out : ValidationRows or None
        Rows that are not trained on.
    """

    options: EpochOptions
    hold_out: ValidationRows | None = None

    @property
    def n_spare_arrays(self) -> int:
        """With early stopping, one: the best parameters."""
        return 0 if self.hold_out is None else int(self.hold_out.stops)

    @property
    def mixes_rows(self) -> bool:
        """If they are shuffled."""
        return self.options.shuffle

    @property
    def needs_all_features(self) -> bool:
        """Only for a score that is computed from them."""
        hold_out = self.hold_out
        return hold_out is not None and isinstance(hold_out.score, ScoreOfRows)

    def max_rows(self, dataset: BaseDataset, network: Network, itemsize: int) -> int:
        """Return the rows of a mini-batch, or of a block of held-out rows."""
        if self.hold_out is None:
            return self.options.batch_size
        block = min(BLOCK_ROWS, self.hold_out.n_rows(dataset))
        return max(self.options.batch_size, block)

    def for_run(self) -> Self:
        """Return itself: the state is all that there is between two epochs."""
        return self

    def close(self) -> None:
        """Do nothing; see `for_run`."""

    def begin(
        self, network: OpenNetwork[Any], dataset: Dataset, state: TrainingState
    ) -> TrainingState:
        """Draw the held-out rows, unless `state` has been trained from before."""
        if state.row_order is not None:
            return state
        rows, held_out = np.arange(dataset.n_rows), None
        if self.hold_out is not None:
            rows, held_out = self.hold_out.draw(dataset, state.random_state)
            if self.hold_out.stops and self.hold_out.include_initial:
                network.state.keep_best()
        assert state.progress is not None
        stops = self.hold_out is not None and self.hold_out.stops
        return replace(
            state,
            network=network.state.current,
            progress=state.progress.started(held_out is not None, stops),
            row_order=rows,
            held_out=held_out,
        )

    def advance(
        self,
        network: OpenNetwork[Any],
        dataset: Dataset,
        state: TrainingState,
        pause: Pause | None,
        log: Log,
    ) -> TrainingState:
        """Train epoch after epoch; see `train_epochs`."""
        validation = None
        if self.hold_out is not None:
            assert state.held_out is not None
            validation = self.hold_out.validation(dataset, state.held_out)
        return train_epochs(network, self.options, state, validation, pause, log)


@dataclass(frozen=True)
class LbfgsTraining:
    """Training on all rows at once.

    Attributes
    ----------
    options : LbfgsOptions
        When to end.
    """

    options: LbfgsOptions

    @property
    def n_spare_arrays(self) -> int:
        """One: gradients of blocks are summed there."""
        return 1

    def max_rows(self, dataset: BaseDataset, network: Network, itemsize: int) -> int:
        """Return the rows of a block."""
        return int(self.blocks(dataset, network, itemsize)[0].stop)

    @property
    def mixes_rows(self) -> bool:
        """No: blocks of neighbours are computed one after the other."""
        return False

    @property
    def needs_all_features(self) -> bool:
        """No."""
        return False

    def for_run(self) -> "LbfgsRun":
        """Return what holds SciPy's L-BFGS between pauses."""
        return LbfgsRun(self)

    def blocks(
        self, dataset: BaseDataset, network: Network, itemsize: int
    ) -> list[slice]:
        """Return the blocks of rows that are computed one after the other."""
        return blocks_of(dataset.n_rows, network.layer_units, itemsize)


class LbfgsRun:
    """L-BFGS in one run: what SciPy knows cannot be part of the training state.

    Parameters
    ----------
    method : LbfgsTraining
        When to end.
    """

    def __init__(self, method: LbfgsTraining) -> None:
        self._method = method
        self._minimisation: IterativeMinimisation[Any] | None = None
        self._n_iter_before = 0
        self._n_evaluations_before = 0

    def begin(
        self, network: OpenNetwork[Any], dataset: Dataset, state: TrainingState
    ) -> TrainingState:
        """Return a state without iterations: L-BFGS begins at its parameters.

        If they are those of an earlier iteration, it counts on from there.
        """
        if isinstance(state.progress, LbfgsProgress):
            self._n_iter_before = state.progress.n_iter
            self._n_evaluations_before = state.progress.n_evaluations
        return replace(state, progress=None, iterate=None)

    def advance(
        self,
        network: OpenNetwork[Any],
        dataset: Dataset,
        state: TrainingState,
        pause: Pause | None,
        log: Log,
    ) -> TrainingState:
        """Train to the end, or to a pause after an iteration; SciPy logs nothing."""
        if self._minimisation is None:
            blocks = self._method.blocks(
                dataset, network.network, dataset.X.dtype.itemsize
            )
            options = self._method.options
            # Neither is below 0, and the first is not 0 either: a pause is before
            # another iteration. SciPy counts evaluations at the end of each.
            options = replace(
                options,
                max_iter=options.max_iter - self._n_iter_before,
                max_fun=options.max_fun - self._n_evaluations_before,
            )
            if pause is None:
                found = minimise(network, options, blocks)
                return self._ended(network, state, found)
            self._minimisation = IterativeMinimisation(network, options, blocks)
        minimisation = self._minimisation
        while minimisation.advance():
            iterate, progress = minimisation.iterate, None
            # Shards that do not lead know neither.
            if iterate is not None:
                progress = self._progress(
                    iterate.n_iter, iterate.loss, iterate.n_evaluations
                )
            state = replace(
                state,
                network=network.state.current,
                progress=progress,
                iterate=None if iterate is None else iterate.parameters,
            )
            if pause is not None and pause(state):
                return state
        return self._ended(network, state, minimisation.result)

    def close(self) -> None:
        """End SciPy's thread, if there is one."""
        if self._minimisation is not None:
            self._minimisation.close()

    def _ended(
        self,
        network: OpenNetwork[Any],
        state: TrainingState,
        found: OptimizeResult | None,
    ) -> TrainingState:
        """Return the state at the end."""
        state = replace(state, network=network.state.current, iterate=None)
        if found is None:
            # Shards that do not lead know no result, but that training has ended.
            return replace(state, outcome=Outcome.CONVERGED)
        progress = self._progress(found.nit, float(found.fun), found.nfev)
        return replace(state, progress=progress, outcome=found)

    def _progress(self, n_iter: int, loss: float, n_evaluations: int) -> LbfgsProgress:
        """Return the progress of all runs together, from that of this one."""
        # SciPy may count one more iteration than it was allowed.
        return LbfgsProgress(
            min(self._n_iter_before + n_iter, self._method.options.max_iter),
            loss,
            self._n_evaluations_before + n_evaluations,
        )


@dataclass(frozen=True)
class TrainingJob:
    """A network, where its training starts, and how it is trained.

    Attributes
    ----------
    network : Network
        The whole network.
    split : NetworkSplit
        Which shard has which of its neurons.
    n_replicas : int
        Number of replicas of all shards.
    dtype : dtype
        float32 or float64: of the parameters, and of all arithmetic.
    method : Method
        How it is trained.
    initial : TrainingState
        Where to start: the state of the whole network, whose `network` is None if
        its parameters have yet to be drawn. Its arrays are left as they are. Its
        random state is advanced, unless training continues between two epochs.
    rule : UpdateRule or None
        The optimiser to start with, where `initial` has none.
    ema_decay : float or None
        That of the moving average of the parameters, if the optimiser keeps one.
    verbose : bool
        Whether to log scikit-learn's verbose lines.
    """

    network: Network
    split: NetworkSplit
    dtype: np.dtype[np.floating]
    method: Method
    initial: TrainingState
    rule: UpdateRule | None = None
    ema_decay: float | None = None
    verbose: bool = False
    n_replicas: int = 1

    @property
    def grid(self) -> Grid:
        """The processes that train, as a grid."""
        return Grid(self.split.n_shards, self.n_replicas)

    @property
    def n_moments(self) -> int:
        """Number of arrays, each like the parameters, that the optimiser keeps."""
        if self.rule is None:
            return 0
        return self.rule.n_moments + (self.ema_decay is not None)

    @property
    def log(self) -> Log:
        """What logs scikit-learn's verbose lines in this process."""
        return print if self.verbose else quiet

    def max_rows(self, dataset: BaseDataset) -> int:
        """Return the maximum number of rows of a step or block."""
        return self.method.max_rows(dataset, self.network, self.dtype.itemsize)

    def for_rank(self, rank: int) -> "TrainingJob":
        """Return the job of one process, which starts from its part of the state."""
        whole = self.initial.network
        if whole is None:
            return self
        own = take_state(self.split, whole, rank, self.n_replicas)
        return replace(self, initial=replace(self.initial, network=own))

    def start(self, layout: ShardLayout, replica: int = 0) -> TrainingState:
        """Return the state that one process starts from, in arrays to be trained.

        Its parameters are drawn if `initial`, which is its own, has none.

        Raises
        ------
        ValueError
            If training has ended in `initial`: there is nothing to continue.
        """
        initial = self.initial
        if initial.outcome is not None:
            raise ValueError(
                f"training has ended ({initial.outcome}), expected a state from "
                f"between two epochs. Continue from a snapshot."
            )
        if initial.row_order is not None:
            # Continued: training overwrites its arrays and draws from its random
            # state, and the same state may be continued again.
            initial = initial.copy()
        network = initial.network
        if network is not None and initial.row_order is None:
            network = network.copy()
        if network is None:
            layers = self.network.layers
            network = ShardState(
                draw_parameters(layout, layers, initial.random_state, self.dtype)
            )
        if network.optimizer is None and self.rule is not None:
            parts = optimizer_parts(layout.n_parameters, self.n_replicas)
            own = network.parameters[parts[replica].columns]
            optimizer = init(self.rule, own, self.ema_decay)
            network = replace(network, optimizer=optimizer)
        if self.network.has_dropout and network.dropout_seed is None:
            seed = int(initial.random_state.randint(2**63 - 1, dtype=np.int64))
            network = replace(network, dropout_seed=seed)
        return replace(initial, network=network)


class Checkpoint(Protocol):
    """What may keep the state of a training between two epochs."""

    def offer(
        self, state: TrainingState, snapshot: Callable[[], TrainingState]
    ) -> None:
        """Take note of a state; the function returns a copy, which takes time."""

    def newer_than(self, n_iter: int) -> TrainingState | None:
        """Return the newest state that there is, if it is of a later epoch."""

    def keep(self, state: TrainingState) -> None:
        """Keep a state, perhaps the last one left, whose arrays nobody writes to."""


Offer = Callable[[TrainingState, Callable[[], TrainingState]], None]
"""As `Checkpoint.offer`."""

OnEpochEnd = Callable[[TrainingState, Callable[[], TrainingState]], bool]
"""Called after every epoch or iteration but the last, with the state, whose arrays
training goes on changing, and a function that returns a copy; says whether to stop
training there."""
