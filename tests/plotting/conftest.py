"""What the tests of displays share."""

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def figures_are_closed():
    mpl.use("agg")
    yield
    plt.close("all")


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:200], y[:200]
