"""The local engine trains in this process, on rows that it fetches if need be."""

import numpy as np
from numpy.testing import assert_array_equal
from scipy.optimize import OptimizeResult

from skdistmlp.engines.local import LocalEngine
from tests.training.jobs import dataset_of, job_of, lbfgs_job, plan_of


class Elsewhere:
    """A data set that lies elsewhere until it is fetched."""

    def __init__(self, dataset):
        self._dataset = dataset
        self.n_fetched = 0

    def to_local(self):
        self.n_fetched += 1
        return self._dataset


def engine():
    return LocalEngine(plan_of("local", (), 1))


def test_remote_rows_are_fetched_once():
    remote = Elsewhere(dataset_of("adam"))
    found = engine().train(job_of("adam"), remote)
    expected = engine().train(job_of("adam"), dataset_of("adam"))
    assert remote.n_fetched == 1
    assert_array_equal(found.network.parameters, expected.network.parameters)


def test_lbfgs_ends_with_what_scipy_found():
    state = engine().train(lbfgs_job(), dataset_of("adam"))
    assert isinstance(state.outcome, OptimizeResult)
    assert_array_equal(state.network.parameters, state.outcome.x)
    assert np.isfinite(state.outcome.fun)
