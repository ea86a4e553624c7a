"""What is to be trained, as a value: every engine carries out the same job."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from scipy.optimize import OptimizeResult
from sklearn.model_selection import train_test_split
from sklearn.utils import gen_batches

from skdistmlp.nn.optimizers import UpdateRule, init
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.communicators import Communicator
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.initial import draw_parameters
from skdistmlp.parallel.local_ops import LocalOps
from skdistmlp.parallel.ops import NetworkOps
from skdistmlp.parallel.shard import Network, ShardState, split_state
from skdistmlp.parallel.split import ShardLayout
from skdistmlp.training.lbfgs import LbfgsOptions, blocks_of, minimise
from skdistmlp.training.loop import TrainingOptions, Validation, epochs
from skdistmlp.training.progress import Outcome, Progress

Value = TypeVar("Value")

VALIDATION_BLOCK_ROWS = 1000
"""Validation rows forwarded at a time."""

Score = Callable[[np.ndarray, FloatArray, FloatArray | None], float]
"""From targets, outputs and weights to a number; higher is better."""


AfterEpoch = Callable[[Callable[[], ShardState]], bool]
"""Called after every epoch but the last, with a function that returns a copy of the
state that training would end with there; says whether it is to end there."""


@dataclass(frozen=True)
class HoldOut:
    """Which rows to hold out for early stopping, and how to score them.

    Attributes
    ----------
    fraction : float
        Share of the rows.
    stratify : bool
        Whether to keep the shares of the classes.
    score : callable
        See `Score`.
    include_initial : bool
        Whether the weights before the first epoch are a candidate for the best.
    """

    fraction: float
    stratify: bool
    score: Score
    include_initial: bool

    def n_rows(self, dataset: Dataset) -> int:
        """Return how many rows are held out."""
        return math.ceil(self.fraction * dataset.n_rows)

    def check(self, dataset: Dataset) -> None:
        """Raise ValueError if the rows cannot be split so."""
        self.split(dataset, np.random.RandomState(0))

    def split(
        self, dataset: Dataset, random_state: np.random.RandomState
    ) -> tuple[np.ndarray, Validation]:
        """Return the rows to train on, and those held out."""
        assert dataset.y is not None
        rows, held_out = train_test_split(
            np.arange(dataset.n_rows),
            random_state=random_state,
            test_size=self.fraction,
            stratify=dataset.y if self.stratify else None,
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' "
                "or the size of your dataset."
            )
        y, weight = dataset.y[held_out], dataset.weights(held_out)
        validation = Validation(
            blocks=[
                held_out[block]
                for block in gen_batches(len(held_out), VALIDATION_BLOCK_ROWS)
            ],
            score=lambda outputs: self.score(y, outputs, weight),
            include_initial=self.include_initial,
        )
        return rows, validation


class Training(Protocol):
    """A way to train: in epochs of mini-batches, or on all rows at once."""

    @property
    def progress(self) -> Progress | None:
        """Where training in epochs stands."""

    @property
    def say(self) -> Callable[[str], None] | None:
        """What is called with each of scikit-learn's verbose lines."""

    @property
    def n_spare_arrays(self) -> int:
        """Arrays of a shard's parameters beside those that every training has."""

    def saying(self, say: Callable[[str], None]) -> Self:
        """Return the same training with `say` called instead."""

    def for_rank(self, rank: int) -> Self:
        """Return what one of the shards that train by themselves has to know."""

    def max_rows(self, dataset: Dataset, network: Network, itemsize: int) -> int:
        """Return the most rows of any step or block."""

    def run(
        self,
        group: NetworkOps[Value],
        network: Network,
        dataset: Dataset,
        random_state: np.random.RandomState,
    ) -> Generator[None, bool | None, Any]:
        """Train, yielding where one may pause; return what came of it."""


@dataclass(frozen=True)
class EpochTraining:
    """Training in epochs of mini-batches.

    Attributes
    ----------
    options : TrainingOptions
        How to go about it.
    progress : Progress
        Where training stands; brought up to date.
    hold_out : HoldOut or None
        With it, training stops early.
    """

    options: TrainingOptions
    progress: Progress
    hold_out: HoldOut | None = None

    @property
    def say(self) -> Callable[[str], None] | None:
        """What is called with each of scikit-learn's verbose lines."""
        return self.options.say

    @property
    def n_spare_arrays(self) -> int:
        """With early stopping, the best weights."""
        return 0 if self.hold_out is None else 1

    def saying(self, say: Callable[[str], None] | None) -> Self:
        """Return the same training with `say` called instead."""
        return replace(self, options=replace(self.options, say=say))

    def for_rank(self, rank: int) -> Self:
        """Return the same; only shard 0 says something, to be told where."""
        if self.say is None:
            return self
        return self.saying(_nobody_listens if rank == 0 else None)

    def max_rows(self, dataset: Dataset, network: Network, itemsize: int) -> int:
        """Return the rows of a mini-batch, or of a block of validation rows."""
        if self.hold_out is None:
            return self.options.batch_size
        block = min(VALIDATION_BLOCK_ROWS, self.hold_out.n_rows(dataset))
        return max(self.options.batch_size, block)

    def run(
        self,
        group: NetworkOps[Value],
        network: Network,
        dataset: Dataset,
        random_state: np.random.RandomState,
    ) -> Generator[None, bool | None, Outcome]:
        """Train, yielding after every epoch; return why training ended."""
        if self.hold_out is None:
            rows, validation = np.arange(dataset.n_rows), None
        else:
            rows, validation = self.hold_out.split(dataset, random_state)
        return (
            yield from epochs(
                group, self.options, self.progress, rows, random_state, validation
            )
        )


@dataclass(frozen=True)
class LbfgsTraining:
    """Training on all rows at once.

    Attributes
    ----------
    options : LbfgsOptions
        When to end.
    parameters : ndarray of shape (n_parameters,), or None
        Where to start; None where L-BFGS does not run.
    progress, say : None
        There are no epochs, and nothing to say.
    """

    options: LbfgsOptions
    parameters: FloatArray | None
    progress: None = None
    say: None = None

    @property
    def n_spare_arrays(self) -> int:
        """Where gradients of blocks are summed."""
        return 1

    def saying(self, say: Callable[[str], None] | None) -> Self:
        """Return the same: SciPy says nothing."""
        return self

    def for_rank(self, rank: int) -> Self:
        """Return the same, with a start for shard 0 only."""
        return self if rank == 0 else replace(self, parameters=None)

    def max_rows(self, dataset: Dataset, network: Network, itemsize: int) -> int:
        """Return the rows of a block."""
        return int(self._blocks(dataset, network, itemsize)[0].stop)

    def run(
        self,
        group: NetworkOps[Value],
        network: Network,
        dataset: Dataset,
        random_state: np.random.RandomState,
    ) -> Generator[None, bool | None, OptimizeResult | None]:
        """Train without a pause; return what scipy found, on the leader."""
        yield from ()
        blocks = self._blocks(dataset, network, dataset.X.dtype.itemsize)
        return minimise(group, self.options, self.parameters, blocks)

    def _blocks(self, dataset: Dataset, network: Network, itemsize: int) -> list[slice]:
        return blocks_of(dataset.n_rows, network.split.layer_units, itemsize)


@dataclass(frozen=True)
class TrainingJob:
    """A network, where its training begins, and how it is trained.

    Attributes
    ----------
    network : Network
        The network, however it is split.
    dtype : dtype
        float32 or float64: of the parameters, and of all arithmetic.
    training : Training
        How it is trained.
    random_state : RandomState
        Draws the weights, then the rows held out, then shuffles, as in
        scikit-learn; advanced.
    start : ShardState or None
        State of the whole network to begin with; None to draw the weights.
    rule : UpdateRule or None
        The optimiser to begin with, where `start` has none.
    """

    network: Network
    dtype: np.dtype[np.floating]
    training: Training
    random_state: np.random.RandomState
    start: ShardState | None = None
    rule: UpdateRule | None = None

    @property
    def progress(self) -> Progress | None:
        """Where training in epochs stands."""
        return self.training.progress

    def max_rows(self, dataset: Dataset) -> int:
        """Return the most rows of any step or block."""
        return self.training.max_rows(dataset, self.network, self.dtype.itemsize)

    @property
    def say(self) -> Callable[[str], None] | None:
        """What is called with each of scikit-learn's verbose lines."""
        return self.training.say

    def saying(self, say: Callable[[str], None]) -> "TrainingJob":
        """Return the job with `say` called instead, if anything is."""
        if self.say is None:
            return self
        return replace(self, training=self.training.saying(say))

    def for_rank(self, rank: int) -> "TrainingJob":
        """Return what one of the shards that train by themselves has to know.

        What is said, and where L-BFGS starts, concerns shard 0 alone.
        """
        start = self.start
        if start is not None:
            start = split_state(self.network.split, start)[rank]
        return replace(self, training=self.training.for_rank(rank), start=start)

    def with_initial_state(self, layout: ShardLayout) -> "TrainingJob":
        """Return the job with the state that one shard begins with.

        `start`, if there is one, is that shard's; else its weights are drawn.
        """
        state = self.start
        if state is None:
            state = ShardState(
                draw_parameters(
                    layout, self.network.activation, self.random_state, self.dtype
                )
            )
        if state.optimizer is None and self.rule is not None:
            state = replace(state, optimizer=init(self.rule, state.parameters))
        return replace(self, start=state)

    def shard(self, dataset: Dataset, communicator: Communicator) -> LocalOps:
        """Return one shard of a job that has begun; `dataset` is prepared."""
        assert self.start is not None, "the job has not begun"
        max_rows = self.max_rows(dataset)
        return LocalOps(self.network, self.start, dataset, communicator, max_rows)

    def run(
        self, group: NetworkOps[Value], dataset: Dataset
    ) -> Generator[None, bool | None, Any]:
        """Train, yielding where one may pause; return what came of it."""
        return self.training.run(group, self.network, dataset, self.random_state)


def resume(training: Generator[None, bool | None, Any], stop: bool) -> None:
    """Train to the next pause; or to the end, without a step more, to `stop`."""
    # Before it begins, a generator takes nothing but None.
    training.send(stop or None)


def run_to_end(
    training: Generator[None, bool | None, Any],
    pause: Callable[[], bool] | None = None,
) -> Any:
    """Train to the end, and return what came of it.

    Parameters
    ----------
    training : generator
        From `TrainingJob.run`.
    pause : callable, optional
        Called at each pause; says whether to stop there.
    """
    stop = False
    while True:
        try:
            try:
                resume(training, stop)
                if pause is not None:
                    stop = pause()
            except KeyboardInterrupt as interrupt:
                # Between two epochs as in one: it decides what is kept.
                training.throw(interrupt)
        except StopIteration as end:
            return end.value


def _nobody_listens(line: str) -> None:
    """Stand in for a function that cannot be sent."""
