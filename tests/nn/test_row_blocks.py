import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdistmlp.nn.row_blocks import BLOCK_BYTES, row_blocks
from tests.nn.test_activations import SHAPES


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_row_blocks_are_small_and_cover_every_row_once(shape):
    a = np.zeros(shape)
    blocks = [a[rows] for rows in row_blocks(a)]
    for block in blocks:
        block += 1
    assert_array_equal(a, np.ones(shape))
    assert all(block.nbytes <= BLOCK_BYTES or len(block) == 1 for block in blocks)
