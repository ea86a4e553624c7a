"""Networks that are narrowed until less than all of a large one is timed."""

import pytest

from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.parallel.split import count_parameters
from skdistmlp.training.narrowing import MIN_WIDTH, narrowed

MOST = 1_000_000


def network_of(*layer_units):
    return Network(dense_layers(layer_units, "tanh", 0.1), "softmax", alpha=0.5)


def units_of(*layer_units, nnz_per_row=None, narrows_outputs=True):
    """Widths of a network that is narrowed."""
    network = network_of(*layer_units)
    found = narrowed(network, MOST, nnz_per_row, narrows_outputs=narrows_outputs)
    same = network_of(*found.layer_units)
    assert found == same, "all but the widths stays"
    return found.layer_units


def test_only_the_widest_layers_of_a_large_network_are_narrowed():
    assert units_of(784, 512, 512, 10) == (784, 512, 512, 10)
    first, second, third, last = units = units_of(300, 4096, 4096, 10)
    assert (first, last) == (300, 10)
    assert second == third
    assert 0.99 * MOST < count_parameters(units) <= MOST
    assert units_of(10**6, 64, 50_000, 2)[1] == 64
    assert units_of(10**5, 2) == (10**5, 2)
    wide, n_outputs = units_of(10**8, 2)
    assert wide == (MOST - n_outputs) // n_outputs


def test_many_outputs_are_narrowed_before_hidden_layers_have_few_neurons():
    n_features, hidden, n_outputs = units = units_of(784, 512, 50_000)
    assert (n_features, hidden) == (784, 512)
    assert 0.99 * MOST < count_parameters(units) <= MOST
    assert n_outputs > 512


@pytest.mark.parametrize("n_hidden", [20, 512])
def test_outputs_that_are_not_narrowed_leave_layers_a_least_width(n_hidden):
    units = units_of(5000, n_hidden, 50_000, narrows_outputs=False)
    least = min(n_hidden, MIN_WIDTH)
    assert units == (MIN_WIDTH, least, 50_000)


def test_a_network_keeps_the_features_that_a_row_stores():
    stored = units_of(10**6, 1000, 10, nnz_per_row=30_000.5)
    assert stored == (30_001, MIN_WIDTH, 10)
