"""Rows held out for early stopping: which they are, and how they are scored."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils import gen_batches

from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.data import BaseDataset

BLOCK_ROWS = 1000
"""Held-out rows forwarded at a time."""

Score = Callable[[np.ndarray, FloatArray, FloatArray | None], float]
"""From targets, outputs and weights to a number; higher is better."""


@dataclass(frozen=True)
class Validation:
    """Held-out rows, ready for scoring.

    Attributes
    ----------
    blocks : sequence of ndarray of int
        Indices of the rows, cut into blocks that are forwarded one after the other.
    score : callable
        From the outputs of all rows to a number; higher is better.
    """

    blocks: Sequence[NDArray[np.intp]]
    score: Callable[[FloatArray], float]


@dataclass(frozen=True)
class HoldOut:
    """Which rows to hold out for early stopping, and how to score them.

    Attributes
    ----------
    fraction : float
        Share of the rows.
    stratify : bool
        Whether to keep the proportions of the classes.
    score : callable
        See `Score`.
    include_initial : bool
        Whether the parameters before the first epoch are a candidate for the best.
    """

    fraction: float
    stratify: bool
    score: Score
    include_initial: bool

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

    def validation(
        self, dataset: BaseDataset, held_out: NDArray[np.intp]
    ) -> Validation:
        """Return the rows of these indices, ready for scoring."""
        assert dataset.y is not None
        y, weight = dataset.y[held_out], dataset.weights(held_out)
        blocks = [held_out[block] for block in gen_batches(len(held_out), BLOCK_ROWS)]
        return Validation(blocks, lambda outputs: self.score(y, outputs, weight))
