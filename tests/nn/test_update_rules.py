"""What a rule does to one block; whole steps are in `test_optimizers`."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skdistmlp.nn.update_rules import UPDATE_RULES, AdamW, Block, NAdam, RMSprop


def block(n_moments, n_coefs=3, size=5, **options):
    rng = np.random.default_rng(0)
    parameters, gradient = rng.normal(size=(2, size))
    gradient.flags.writeable = False
    moments = tuple(np.zeros(size) for _ in range(n_moments))
    scratch = np.full(size, np.nan), np.full(size, np.nan)
    return Block(parameters, gradient, moments, scratch, n_coefs, **options)


def test_a_gradient_to_which_nothing_happens_is_not_copied():
    plain = block(0)
    assert plain.total_gradient() is plain.gradient
    assert block(0, n_coefs=0, penalty=0.5).total_gradient() is not None


def test_penalty_and_scale_are_applied_in_this_order():
    changed = block(0, penalty=0.5, scale=0.25)
    expected = changed.gradient.copy()
    expected[:3] += 0.5 * changed.parameters[:3]
    assert_array_equal(changed.total_gradient(), 0.25 * expected)


@pytest.mark.parametrize("name", sorted(UPDATE_RULES))
def test_a_rule_has_as_many_moments_as_it_says(name):
    rule = UPDATE_RULES[name]()
    some = block(rule.n_moments)
    before = some.parameters.copy()
    rule.update_block(some, 0.1, 1)
    assert (some.parameters != before).all()
    assert len(some.moments) == rule.n_moments


def test_weight_decay_shrinks_coefficients_and_not_intercepts():
    """Whatever the gradient is; here none."""
    with_decay = block(2)._replace(gradient=np.zeros(5))
    before = with_decay.parameters.copy()
    AdamW(weight_decay=0.5).update_block(with_decay, 0.1, 1)
    assert_allclose(with_decay.parameters[:3], 0.95 * before[:3], rtol=1e-15)
    assert_array_equal(with_decay.parameters[3:], before[3:])


def test_rmsprop_divides_by_the_root_of_the_mean_square():
    some = block(1)
    before = some.parameters.copy()
    RMSprop(rho=0.75, epsilon=1e-3).update_block(some, 0.1, 1)
    root = np.sqrt(0.25 * some.gradient**2)
    assert_allclose(
        some.parameters, before - 0.1 * some.gradient / (root + 1e-3), rtol=1e-14
    )


def test_the_first_step_of_nadam_follows_dozat():
    some = block(2)
    before, g = some.parameters.copy(), some.gradient
    NAdam().update_block(some, 0.1, 1)
    now, following = (0.9 * (1 - 0.5 * 0.96 ** (0.004 * t)) for t in (1, 2))
    step = (1 - now) * g / (1 - now) + following * 0.1 * g / (1 - now * following)
    assert_allclose(
        some.parameters, before - 0.1 * step / (np.abs(g) + 1e-8), rtol=1e-12
    )
