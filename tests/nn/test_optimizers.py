from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from skdistmlp.nn import compiled, optimizers
from skdistmlp.nn.optimizers import (
    LANES,
    clipping_scale,
    init,
    squared_gradient_norm,
    update,
)
from skdistmlp.nn.update_rules import (
    UPDATE_RULES,
    Adam,
    AdamW,
    Block,
    NAdam,
    RMSprop,
    Sgd,
)
from tests.strategies import seeds, update_rules

BLOCK = 16
"""Parameters in a block, patched down from some 10,000."""

HYPERPARAMETERS = {
    "sgd": [
        {},
        {"momentum": 0.0, "nesterov": False},
        {"momentum": 0.5, "nesterov": False},
    ],
    "adam": [{}, {"beta_1": 0.0, "beta_2": 0.0, "epsilon": 1e-3}, {"beta_2": 0.9}],
}
"""Of the rules that scikit-learn has."""
SKLEARN_OPTIMIZERS = {"sgd": SGDOptimizer, "adam": AdamOptimizer}

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
rules = pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [(name, values) for name in HYPERPARAMETERS for values in HYPERPARAMETERS[name]],
    ids=str,
)


def blocks_of(n_parameters, dtype):
    return patch.object(
        optimizers, "BLOCK_BYTES", n_parameters * np.dtype(dtype).itemsize
    )


def set_rate(optimizer, learning_rate):
    """Give a scikit-learn optimiser the rate of its next step."""
    if isinstance(optimizer, AdamOptimizer):
        optimizer.learning_rate_init = learning_rate
    else:
        optimizer.learning_rate = learning_rate


@rules
@dtypes
@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_many_steps_match_scikit_learn(name, hyperparameters, dtype, size):
    """With the border of the L2 penalty before, inside and behind a block."""
    rng = np.random.default_rng(size)
    for n_coefs in {0, size // 2, max(0, size - 1), size}:
        parameters = rng.normal(size=size).astype(dtype)
        expected = parameters.copy()
        theirs = SKLEARN_OPTIMIZERS[name]([expected], **hyperparameters)
        state = init(UPDATE_RULES[name](**hyperparameters), parameters)
        penalty = 0.1
        for step in range(40):
            gradient = rng.normal(size=size).astype(dtype)
            gradient.flags.writeable = False
            norm = np.sum(np.square(expected[:n_coefs], dtype=np.float64))
            whole = gradient.copy()
            whole[:n_coefs] += dtype(penalty) * expected[:n_coefs]
            rate = 0.01 / (1 + step)
            set_rate(theirs, rate)
            theirs.update_params([expected], [whole])
            with blocks_of(BLOCK, dtype):
                state, squared_norm = update(
                    state,
                    parameters,
                    gradient,
                    rate,
                    n_coefs=n_coefs,
                    penalty=penalty,
                )
            tolerance = 2e-5 if dtype == np.float32 else 1e-12
            assert_allclose(squared_norm, norm, rtol=tolerance)
        assert state.n_steps == 40
        assert parameters.dtype == dtype
        assert_allclose(parameters, expected, rtol=tolerance, atol=tolerance)


@rules
@dtypes
def test_an_l2_penalty_is_added_and_the_gradient_scaled(name, hyperparameters, dtype):
    rng = np.random.default_rng(0)
    rule = UPDATE_RULES[name](**hyperparameters)
    scratch = np.full((2, BLOCK), np.nan, dtype)
    for n_coefs in [0, 5, BLOCK]:
        parameters, gradient = rng.normal(size=(2, BLOCK)).astype(dtype)
        moments = tuple(np.zeros(BLOCK, dtype) for _ in range(rule.n_moments))
        expected, their_moments = parameters.copy(), [m.copy() for m in moments]
        total = gradient.copy()
        total[:n_coefs] += dtype(0.1) * parameters[:n_coefs]
        scaled = total * dtype(0.25)
        plain = Block(expected, scaled, tuple(their_moments), tuple(scratch.copy()))
        rule.update_block(plain, 0.01, 1)
        gradient.flags.writeable = False
        block = Block(
            parameters, gradient, moments, tuple(scratch), n_coefs, 0.1, scale=0.25
        )
        rule.update_block(block, 0.01, 1)
        assert_array_equal(parameters, expected)
        assert_array_equal(moments, their_moments)


def test_rules_are_built_from_the_parameters_of_an_estimator():
    params = {
        "momentum": 1,
        "nesterovs_momentum": np.False_,
        "beta_1": 0,
        "beta_2": np.float32(0.5),
        "epsilon": 1,
        "weight_decay": 2,
        "rho": 0.25,
        "alpha": 3.0,
    }
    sgd, adam = (UPDATE_RULES[name].from_params(params) for name in ("sgd", "adam"))
    assert sgd == Sgd(1.0, False)
    assert adam == Adam(0.0, 0.5, 1.0)
    adamw, rmsprop, nadam = (
        UPDATE_RULES[name].from_params(params) for name in ("adamw", "rmsprop", "nadam")
    )
    assert adamw == AdamW(0.0, 0.5, 1.0, 2.0)
    assert rmsprop == RMSprop(0.25, 1.0)
    assert nadam == NAdam(0.0, 0.5, 1.0)
    assert not any(rule.has_schedule for rule in (adamw, rmsprop, nadam))
    assert [type(v) for v in vars(sgd).values()] == [float, bool]
    assert [type(v) for v in vars(adam).values()] == [float] * 3
    assert (sgd.has_schedule, adam.has_schedule) == (True, False)


@pytest.mark.parametrize("name", sorted(UPDATE_RULES))
def test_without_a_penalty_no_norm_is_computed(name):
    parameters = np.ones(3 * BLOCK)
    state = init(UPDATE_RULES[name](), parameters)
    with blocks_of(BLOCK, float):
        _, norm = update(state, parameters, np.ones_like(parameters), 0.1)
        _, unused = update(
            state, parameters, np.ones_like(parameters), 0.1, n_coefs=BLOCK
        )
    assert norm == unused == 0.0


@pytest.mark.parametrize("name", sorted(UPDATE_RULES))
@dtypes
def test_moments_start_at_zero_and_are_updated_in_place(name, dtype):
    rule = UPDATE_RULES[name]()
    parameters = np.ones(5, dtype)
    before = init(rule, parameters)
    assert before.n_steps == 0
    assert len(before.moments) == rule.n_moments
    for moment in before.moments:
        assert moment.dtype == dtype
        assert_array_equal(moment, np.zeros(5))
    after, _ = update(before, parameters, np.ones_like(parameters), 0.1)
    assert (before.n_steps, after.n_steps) == (0, 1)
    for old, new in zip(before.moments, after.moments, strict=True):
        assert new is old
        assert np.all(new != 0)


@pytest.mark.parametrize("name", sorted(UPDATE_RULES))
def test_an_update_allocates_nothing_beyond_its_scratch(name):
    """A larger one does no harm, and what is in it does not matter."""
    results = []
    for scratch in [None, np.full((2, BLOCK), np.nan), np.full((2, 5 * BLOCK), np.nan)]:
        parameters = np.linspace(-1, 1, 3 * BLOCK + 2)
        with blocks_of(BLOCK, float):
            update(
                init(UPDATE_RULES[name](), parameters),
                parameters,
                np.linspace(2, 1, parameters.size),
                0.1,
                n_coefs=BLOCK + 5,
                penalty=0.2,
                scratch=scratch,
            )
        results.append(parameters)
    assert_array_equal(results[0], results[1])
    assert_array_equal(results[0], results[2])


def test_a_shard_without_parameters_can_be_updated():
    empty = np.empty(0)
    state, norm = update(
        init(UPDATE_RULES["adam"](), empty), empty, empty, 0.1, penalty=0.1
    )
    assert (state.n_steps, norm) == (1, 0.0)


@given(
    rule=update_rules,
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    block=st.integers(1, 50),
    penalised_share=st.floats(0, 1),
    seed=seeds,
)
def test_slicing_commutes_with_updating(rule, sizes, block, penalised_share, seed):
    """A shard can train its slice without knowing of the others, bit for bit."""
    size = sum(sizes)
    bounds = np.cumsum([0, *sizes])
    rng = np.random.default_rng(seed)
    n_coefs = round(penalised_share * size)
    whole = rng.normal(size=size)
    slices = [slice(*pair) for pair in pairwise(bounds)]
    parts = [whole[part].copy() for part in slices]
    whole_state = init(rule, whole)
    part_states = [init(rule, part) for part in parts]
    for _ in range(3):
        gradient = rng.normal(size=size)
        whole_state, whole_norm = update(
            whole_state, whole, gradient, 0.1, n_coefs=n_coefs, penalty=0.3
        )
        norms = 0.0
        for i, where in enumerate(slices):
            with blocks_of(block, float):
                part_states[i], norm = update(
                    part_states[i],
                    parts[i],
                    gradient[where],
                    0.1,
                    n_coefs=min(max(0, n_coefs - where.start), sizes[i]),
                    penalty=0.3,
                )
            norms += norm
        assert_allclose(norms, whole_norm, rtol=1e-12)
    assert_array_equal(np.concatenate(parts), whole)
    for i, moment in enumerate(whole_state.moments):
        pieces = [state.moments[i] for state in part_states]
        assert_array_equal(np.concatenate(pieces), moment)


def test_the_first_step_is_the_average_and_later_ones_are_mixed_in():
    parameters = np.linspace(-1, 1, 3 * BLOCK + 2)
    state = init(Sgd(), parameters, ema_decay=0.75)
    assert_array_equal(state.average, parameters)
    assert state.average is not parameters
    seen = []
    for _ in range(4):
        with blocks_of(BLOCK, float):
            state, _ = update(state, parameters, np.ones_like(parameters), 0.1)
        seen.append(parameters.copy())
    expected = seen[0]
    for after in seen[1:]:
        expected = 0.75 * expected + 0.25 * after
    assert_allclose(state.average, expected, rtol=1e-14, atol=1e-15)
    assert state.arrays == (*state.moments, state.average)
    copied = state.with_arrays([array + 1 for array in state.arrays])
    assert_array_equal(copied.average, state.average + 1)
    assert_array_equal(copied.moments[0], state.moments[0] + 1)


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_the_norm_of_a_gradient_counts_the_penalty_of_coefficients(penalty):
    rng = np.random.default_rng(0)
    parameters, gradient = rng.normal(size=(2, 3 * BLOCK + 2))
    for n_coefs in (0, 5, BLOCK, parameters.size):
        whole = gradient.copy()
        whole[:n_coefs] += penalty * parameters[:n_coefs]
        with blocks_of(BLOCK, float):
            norm = squared_gradient_norm(parameters, gradient, n_coefs, penalty)
        assert_allclose(norm, np.sum(whole**2), rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_numpy_and_numba_give_the_same_norm(dtype, penalty, monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", {})
    rng = np.random.default_rng(0)
    norms = []
    for _ in range(2):
        for size in (1, LANES - 1, 7 * LANES + 3, 100_000):
            parameters, gradient = rng.normal(size=(2, size)).astype(dtype)
            for n_coefs in (0, size // 3, size):
                norms.append(
                    squared_gradient_norm(parameters, gradient, n_coefs, penalty)
                )
        rng = np.random.default_rng(0)
        compiled.load(compiled.squares)
    assert compiled._compiled[compiled.squares] is not None
    assert norms[: len(norms) // 2] == norms[len(norms) // 2 :]


@pytest.mark.parametrize(("norm", "expected"), [(1.0, 1.0), (2.0, 1.0), (8.0, 0.25)])
def test_a_gradient_is_scaled_only_if_it_is_too_long(norm, expected):
    assert_allclose(clipping_scale(norm**2, 2.0), expected, rtol=1e-6)


def test_the_product_of_many_momenta_is_cut_off_where_it_no_longer_matters():
    rule = NAdam()
    momenta = [rule._momentum(step) for step in range(1, 200)]
    assert_allclose(1 - rule._product(30), 1 - np.prod(momenta[:30]), rtol=1e-15)
    assert rule._product(10**9) == 0
    assert 1 - np.prod(momenta) == 1
