"""Rows that are not trained on: which they are, and how they are scored."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils import gen_batches

from skdistmlp.nn.losses import Output
from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.parallel.data import BaseDataset, Dataset

BLOCK_ROWS = 1000
"""Held-out rows forwarded at a time."""

Score = Callable[[np.ndarray, FloatArray, FloatArray | None], float]
"""From targets, outputs and weights to a number; higher is better."""


class ScoreOfRows(ABC):
    """A score that is given the features too."""

    @abstractmethod
    def content(self) -> Sequence[Any]:
        """Return what the score depends on, besides what it is given."""

    @abstractmethod
    def __call__(
        self,
        y: np.ndarray,
        outputs: FloatArray,
        sample_weight: FloatArray | None,
        X: Features,
    ) -> float:
        """Return the score; higher is better."""


@dataclass(frozen=True)
class Validation:
    """Held-out rows, ready for scoring.

    Attributes
    ----------
    blocks : sequence of ndarray of int
        Indices of the rows, cut into blocks that are forwarded one after the other.
    score : callable
        From the outputs of all rows to a number; higher is better.
    loss : callable or None
        From the loss of the network and the outputs of all rows to their mean loss.
    stops : bool
        Whether training stops, and the best parameters are kept, by the score; if not
        it is recorded only.
    """

    blocks: Sequence[NDArray[np.intp]]
    score: Callable[[FloatArray], float]
    loss: Callable[[Output, FloatArray], float] | None = None
    stops: bool = True


class ValidationRows(Protocol):
    """Which rows are held out of training, and how they are scored.

    Attributes
    ----------
    stops : bool
        See `Validation`.
    include_initial : bool
        Whether the parameters before the first epoch are a candidate for the best.
    """

    @property
    def stops(self) -> bool:
        """See above, as for the other."""

    @property
    def include_initial(self) -> bool:
        """Whether the first parameters may be the best."""

    @property
    def score(self) -> Score | ScoreOfRows:
        """How they are scored."""

    def n_rows(self, dataset: BaseDataset) -> int:
        """Return the number of rows held out."""

    def draw(
        self, dataset: BaseDataset, random_state: np.random.RandomState
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the indices of the rows to train on, and of those held out."""

    def validation(self, dataset: Dataset, held_out: NDArray[np.intp]) -> Validation:
        """Return the rows of these indices, ready for scoring."""


@dataclass(frozen=True)
class LastRows:
    """The last rows of the data set are for validation: those that the user gave.

    Attributes
    ----------
    number : int
        How many.
    score : callable
        See `Score`.
    stops, include_initial : bool
        See `ValidationRows`.
    weighted : bool
        Whether they have weights; without, those in the data set mean nothing.
    """

    number: int
    score: Score | ScoreOfRows
    stops: bool
    include_initial: bool
    weighted: bool = True

    def n_rows(self, dataset: BaseDataset) -> int:
        """Return the number of rows held out."""
        return self.number

    def draw(
        self, dataset: BaseDataset, random_state: np.random.RandomState
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the indices of the first rows, and of the last; draw nothing."""
        n_training = dataset.n_rows - self.number
        return np.arange(n_training), np.arange(n_training, dataset.n_rows)

    def validation(self, dataset: Dataset, held_out: NDArray[np.intp]) -> Validation:
        """Return the rows of these indices, ready for scoring."""
        if not self.weighted:
            dataset = replace(dataset, sample_weight=None)
        return _validation(dataset, held_out, self.score, self.stops)


@dataclass(frozen=True)
class HoldOut:
    """A random share of the rows, held out for early stopping.

    Attributes
    ----------
    fraction : float
        Share of the rows.
    stratify : bool
        Whether to keep the proportions of the classes.
    score : callable
        See `Score`.
    include_initial : bool
        See `ValidationRows`.
    """

    fraction: float
    stratify: bool
    score: Score | ScoreOfRows
    include_initial: bool
    stops: ClassVar[bool] = True

    def n_rows(self, dataset: BaseDataset) -> int:
        """Return the number of rows held out."""
        return math.ceil(self.fraction * dataset.n_rows)

    def validate(self, dataset: BaseDataset) -> None:
        """Raise ValueError if the rows cannot be split so."""
        self.draw(dataset, np.random.RandomState(0))

    def draw(
        self, dataset: BaseDataset, random_state: np.random.RandomState
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the indices of the rows to train on, and of those held out.

        Raises
        ------
        ValueError
            If fewer than two rows would be held out, or a class has too few rows.
        """
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
        return rows, held_out

    def validation(self, dataset: Dataset, held_out: NDArray[np.intp]) -> Validation:
        """Return the rows of these indices, ready for scoring."""
        return _validation(dataset, held_out, self.score, self.stops)


def _validation(
    dataset: Dataset,
    held_out: NDArray[np.intp],
    score: Score | ScoreOfRows,
    stops: bool,
) -> Validation:
    y, weight = dataset.targets(held_out), dataset.weights(held_out)
    n_rows, weight_sum = dataset.batch_totals(held_out)
    blocks = [held_out[block] for block in gen_batches(n_rows, BLOCK_ROWS)]

    def score_of(outputs: FloatArray) -> float:
        if isinstance(score, ScoreOfRows):
            return score(y, outputs, weight, dataset.inputs(held_out))
        return score(y, outputs, weight)

    def mean_loss(output: Output, outputs: FloatArray) -> float:
        # Numbers that are huge or not finite are the caller's to see.
        with np.errstate(all="ignore"):
            return output.loss(y, outputs, weight) / weight_sum

    return Validation(blocks, score_of, mean_loss, stops)
