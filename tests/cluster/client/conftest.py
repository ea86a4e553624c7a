"""Clusters of unusual sizes."""

import pytest

from tests.cluster.leaks import own_cluster


@pytest.fixture
def one_worker():
    """A cluster with one thread: who waits there for a task waits for ever."""
    with own_cluster(n_workers=1) as client:
        yield client


@pytest.fixture
def no_workers():
    with own_cluster(n_workers=0, processes=False) as client:
        yield client
