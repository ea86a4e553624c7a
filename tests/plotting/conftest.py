"""Fixtures for the tests of displays."""

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def close_figures():
    mpl.use("agg")
    yield
    plt.close("all")


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:200], y[:200]
