from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, random

from skdistmlp.nn import compiled
from skdistmlp.nn.dropout import BLOCK_COLUMNS, Dropout

DROPOUT = Dropout(seed=2**62 + 3, step=7, layer=1, rate=0.3)


def mask(dropout, n_rows, n_columns, dtype=np.float64):
    out = np.full((n_rows, n_columns), np.nan, dtype)
    assert dropout.mask(slice(0, n_columns), out) is out
    return out


@pytest.mark.parametrize("rate", [0.0, 1e-4, 0.1, 0.5, 0.999, 1 - 1e-9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mask_drops_the_rate_and_scales_the_others(rate, dtype):
    dropout = Dropout(1, 2, 3, rate)
    drawn = mask(dropout, 1000, 300, dtype)
    kept = drawn[drawn != 0]
    assert_array_equal(kept, dtype(dropout.scale))
    # Within five standard deviations, and half a level.
    sd = np.sqrt(rate * (1 - rate) / drawn.size)
    assert abs(1 - kept.size / drawn.size - rate) <= 5 * (sd + 2**-16)
    # The mean of the mask is one, whatever the rate was rounded to.
    assert dropout.scale * (1 - dropout.threshold / 2**16) == 1


@given(
    n_rows=st.integers(0, 500),
    bounds=st.lists(st.integers(0, 700), min_size=2, max_size=5).map(sorted),
)
def test_any_columns_and_leading_rows_draw_the_same_mask(n_rows, bounds):
    whole = mask(DROPOUT, 500, 700)
    parts = []
    for start, stop in pairwise(bounds):
        part = np.full((n_rows, stop - start), np.nan)
        parts.append(DROPOUT.mask(slice(start, stop), part))
    together = np.hstack(parts)
    assert_array_equal(together, whole[:n_rows, bounds[0] : bounds[-1]])


@pytest.mark.parametrize(
    "other", [{"seed": 4}, {"step": 8}, {"layer": 2}, {"layer": 7, "step": 1}], ids=str
)
def test_seeds_steps_layers_rows_and_blocks_draw_independently(other):
    drawn = mask(DROPOUT, 400, 2 * BLOCK_COLUMNS) != 0
    another = mask(Dropout(**{**vars(DROPOUT), **other}), 400, 2 * BLOCK_COLUMNS) != 0
    n = drawn.size
    expected = n * (0.3**2 + 0.7**2)
    for one in (
        another,
        np.roll(drawn, 1, axis=0),
        np.roll(drawn, 1, axis=1),
        np.roll(drawn, BLOCK_COLUMNS, axis=1),
    ):
        assert abs(np.sum(drawn == one) - expected) < 5 * np.sqrt(n / 4)


def test_a_mask_is_the_same_forever():
    """Saved training continues with it, and workers may have other versions."""
    drawn = mask(Dropout(seed=1, step=2, layer=0, rate=0.5), 2, 8) != 0
    assert drawn.astype(int).tolist() == [
        [0, 0, 1, 1, 1, 1, 0, 1],
        [1, 1, 1, 0, 0, 0, 1, 0],
    ]


@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_rows_drop_what_dense_rows_drop(density, dtype):
    X = csr_array(random(50, 600, density, random_state=0, dtype=dtype))
    before = X.copy()
    dropped = DROPOUT.drop_stored(X)
    assert dropped.dtype == dtype
    assert_allclose(dropped.toarray(), X.toarray() * mask(DROPOUT, 50, 600, dtype))
    assert_array_equal(X.data, before.data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [slice(0, 700), slice(130, 300)], ids=str)
def test_numpy_and_numba_draw_the_same_mask(columns, dtype, monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", {})
    masks = []
    for _ in range(2):
        out = np.full((500, columns.stop - columns.start), np.nan, dtype)
        masks.append(DROPOUT.mask(columns, out))
        compiled.load(compiled.dropout_mask)
    assert compiled._compiled[compiled.dropout_mask] is not None
    assert_array_equal(*masks)


positions = st.lists(st.integers(0, 499), unique=True, max_size=60).map(
    lambda numbers: np.array(sorted(numbers), dtype=int)
)


@given(positions=positions, compile_it=st.booleans())
def test_any_rows_of_a_batch_draw_their_part_of_the_mask(positions, compile_it):
    whole = mask(DROPOUT, 500, 300)
    out = np.full((len(positions), 200), np.nan)
    kernel = compiled.compiled(compiled.dropout_mask, 10**9) if compile_it else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "compiled", lambda *_: kernel)
        assert DROPOUT.mask(slice(70, 270), out, positions) is out
    assert_array_equal(out, whole[positions, 70:270])


@given(positions=positions)
def test_sparse_rows_of_a_batch_lose_what_dense_ones_lose(positions):
    X = random(500, 300, 0.2, format="csr", rng=np.random.default_rng(0))
    dropped = DROPOUT.drop_stored(X[positions], positions)
    assert_array_equal(dropped.toarray(), DROPOUT.drop_stored(X)[positions].toarray())
