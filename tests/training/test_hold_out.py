"""Rows held out for early stopping: which they are, and how they are scored."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import train_test_split

from skdistmlp.parallel.data import Dataset
from skdistmlp.training import hold_out
from skdistmlp.training.hold_out import HoldOut

X = np.arange(40.0).reshape(20, 2)
CLASSES = np.repeat([True, False], [15, 5])[:, np.newaxis]
WEIGHT = np.linspace(1, 2, 20)


def scores(y, outputs, weight):
    """Return everything that a score function receives."""
    return y, outputs, weight


def of(fraction=0.25, stratify=False):
    return HoldOut(fraction, stratify, scores, include_initial=True)


@pytest.mark.parametrize(("fraction", "n_rows"), [(0.1, 2), (0.25, 5), (0.26, 6)])
def test_the_number_of_rows_is_rounded_up(fraction, n_rows):
    dataset = Dataset(X, CLASSES)
    assert of(fraction).n_rows(dataset) == n_rows
    rows, held_out = of(fraction).draw(dataset, np.random.RandomState(0))
    assert len(held_out) == n_rows
    assert sorted([*rows, *held_out]) == list(range(20))


@pytest.mark.parametrize("stratify", [False, True])
def test_rows_are_drawn_as_by_scikit_learn(stratify):
    found = of(stratify=stratify).draw(Dataset(X, CLASSES), np.random.RandomState(3))
    expected = train_test_split(
        np.arange(20),
        random_state=np.random.RandomState(3),
        test_size=0.25,
        stratify=CLASSES if stratify else None,
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert_array_equal(mine, theirs)


def test_a_single_row_is_too_small_a_validation_set():
    dataset, single = Dataset(X, CLASSES), of(0.05)
    with pytest.raises(ValueError, match="The validation set is too small"):
        single.validate(dataset)
    with pytest.raises(ValueError, match="The validation set is too small"):
        single.draw(dataset, np.random.RandomState(0))


def test_a_class_of_one_row_cannot_be_stratified():
    rare = np.arange(20)[:, np.newaxis] == 0
    with pytest.raises(ValueError, match="least populated class"):
        of(stratify=True).validate(Dataset(X, rare))
    of(stratify=False).validate(Dataset(X, rare))


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_held_out_rows_are_scored_with_their_targets_and_weights(weight, monkeypatch):
    monkeypatch.setattr(hold_out, "BLOCK_ROWS", 2)
    held_out = np.array([7, 0, 19, 3, 4])
    validation = of().validation(Dataset(X, CLASSES, weight), held_out)
    assert [list(block) for block in validation.blocks] == [[7, 0], [19, 3], [4]]
    y, outputs, used = validation.score("outputs")
    assert outputs == "outputs"
    assert_array_equal(y, CLASSES[held_out])
    if weight is None:
        assert used is None
    else:
        assert_array_equal(used, weight[held_out])
