"""Clusters for the tests, and the check after each test."""

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import settings
from sklearn.datasets import load_digits

from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.support import load

HAS_CALLBACKS = find_spec("sklearn.callback") is not None
"""scikit-learn has them since 1.9."""

collect_ignore = (
    []
    if HAS_CALLBACKS
    else ["cluster/fits/test_callbacks.py", "estimators/test_callbacks.py"]
)

# The same examples each time; `--hypothesis-profile=searching` looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("searching", deadline=None, max_examples=1000)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Features in [0, 1], float64, and ten classes."""
    X, y = load_digits(return_X_y=True)
    return X / 16, y


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """Three one-thread workers, each a process; tests must not harm them."""
    with LocalCluster(
        n_workers=3, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as running:
        with Client(running, set_as_default=False) as client:
            client.run(load)
        yield running


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A client that is not the active one; on exit, check for leftovers."""
    with Client(cluster, set_as_default=False) as connected:
        remember(connected)
        yield connected
        assert_nothing_left(connected)
