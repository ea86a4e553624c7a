"""A whole network with its parameters, which predicts in any process."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.parallel import whole_network
from skdistmlp.parallel.split import Parameters
from skdistmlp.parallel.whole_network import WholeNetwork, predict_in_blocks

RNG = np.random.default_rng(0)
UNITS = (4, 5, 2)
NETWORK = Network(dense_layers(UNITS, "tanh"), "identity")
PARAMETERS = Parameters(
    [RNG.normal(size=(4, 5)), RNG.normal(size=(5, 2))],
    [RNG.normal(size=5), RNG.normal(size=2)],
)
X = RNG.normal(size=(11, 4))


def by_hand(X):
    (first, second), (b, c) = PARAMETERS
    return np.tanh(X @ first + b) @ second + c


@pytest.mark.parametrize("convert", [np.asarray, csr_array])
@pytest.mark.parametrize("n_rows", [0, 1, 11])
def test_a_whole_network_returns_its_outputs(convert, n_rows):
    outputs = WholeNetwork(NETWORK, PARAMETERS)(convert(X[:n_rows]))
    assert outputs.shape == (n_rows, 2)
    assert_allclose(outputs, by_hand(X[:n_rows]), rtol=1e-12)


@pytest.mark.parametrize(
    ("convert", "name"),
    [
        (np.asarray, "PREDICT_BLOCK_ROWS"),
        (csr_array, "SPARSE_PREDICT_BLOCK_ROWS"),
    ],
    ids=["dense", "sparse"],
)
def test_rows_are_predicted_in_blocks(monkeypatch, convert, name):
    monkeypatch.setattr(whole_network, name, 3)
    lengths = []
    original = whole_network.predict_whole

    def spy(network, parameters, X, block_rows):
        lengths.append(block_rows)
        return original(network, parameters, X, block_rows)

    monkeypatch.setattr(whole_network, "predict_whole", spy)
    outputs = predict_in_blocks(NETWORK, PARAMETERS, convert(X))
    assert lengths == [3]
    assert_allclose(outputs, by_hand(X), rtol=1e-12)


def test_an_unpickled_network_has_aligned_parameters():
    """Arrays that come through Dask are often not aligned."""
    buffer = np.zeros(4 * 5 * 8 + 1, np.uint8)
    unaligned = buffer[1:].view(np.float64).reshape(4, 5)
    unaligned[...] = PARAMETERS.coefs[0]
    coefs = [unaligned, PARAMETERS.coefs[1]]
    network = WholeNetwork(NETWORK, Parameters(coefs, PARAMETERS.intercepts))
    state = dict(network.__dict__)
    received = WholeNetwork.__new__(WholeNetwork)
    received.__setstate__(state)
    assert received.parameters.coefs[0].flags.aligned
    assert_array_equal(received(X), WholeNetwork(NETWORK, PARAMETERS)(X))


def test_a_whole_network_survives_pickling():
    network = WholeNetwork(NETWORK, PARAMETERS)
    assert_array_equal(pickle.loads(pickle.dumps(network))(X), network(X))
