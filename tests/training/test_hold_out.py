"""Rows held out for early stopping are those that scikit-learn would hold out."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import train_test_split

from skdistmlp.training.hold_out import BLOCK_ROWS, HoldOut
from tests.training.jobs import HOLD_OUT, N_ROWS, accuracy, dataset_of


def hold_out(fraction=0.2, stratify=False):
    return HoldOut(fraction, stratify, accuracy, include_initial=True)


@pytest.mark.parametrize("stratify", [False, True])
def test_the_rows_are_those_of_train_test_split(stratify):
    dataset = dataset_of("adam")
    drawn = hold_out(stratify=stratify).draw(dataset, np.random.RandomState(3))
    expected = train_test_split(
        np.arange(N_ROWS),
        random_state=np.random.RandomState(3),
        test_size=0.2,
        stratify=dataset.y if stratify else None,
    )
    for mine, theirs in zip(drawn, expected, strict=True):
        assert_array_equal(mine, theirs)
    assert len(drawn[1]) == hold_out().n_rows(dataset) == 48


def test_fewer_than_two_rows_are_refused():
    tiny = hold_out(fraction=1 / N_ROWS)
    with pytest.raises(ValueError, match="validation set is too small"):
        tiny.draw(dataset_of("adam"), np.random.RandomState(0))
    with pytest.raises(ValueError, match="validation set is too small"):
        tiny.validate(dataset_of("adam"))


def test_validating_draws_from_no_random_state_of_the_fit():
    assert hold_out().validate(dataset_of("adam")) is None


def test_scores_see_targets_and_weights_of_the_held_out_rows():
    dataset = dataset_of("weighted")
    held_out = np.array([5, 2, 9])
    seen = []

    def score(y, outputs, weight):
        seen.append((y, outputs, weight))
        return 0.5

    validation = HoldOut(0.1, False, score, False).validation(dataset, held_out)
    outputs = np.zeros((3, 10))
    assert validation.score(outputs) == 0.5
    ((y, given, weight),) = seen
    assert given is outputs
    assert_array_equal(y, dataset.y[held_out])
    assert_array_equal(weight, dataset.sample_weight[held_out])


def test_held_out_rows_are_scored_in_blocks_in_their_order():
    held_out = np.arange(2 * BLOCK_ROWS + 1) % N_ROWS
    blocks = HOLD_OUT.validation(dataset_of("adam"), held_out).blocks
    assert [len(block) for block in blocks] == [BLOCK_ROWS, BLOCK_ROWS, 1]
    assert_array_equal(np.concatenate(blocks), held_out)
