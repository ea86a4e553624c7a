"""The futures engine: predictions by rows and by neurons, blocks within bounds."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csc_array

from skdistmlp.engines import futures
from skdistmlp.engines.futures import FuturesEngine
from skdistmlp.parallel.shard import predict_whole
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.plan import Plan
from tests.training.jobs import LAYER_UNITS, dataset_of, job_of, split_among

SPLIT = NetworkSplit.even(LAYER_UNITS, 1)


@pytest.mark.parametrize("split_by", ["rows", "neurons"])
@pytest.mark.parametrize("convert", [np.asarray, csc_array])
def test_predictions_are_those_of_the_whole_network(
    client, monkeypatch, split_by, convert
):
    monkeypatch.setattr(futures, "ROWS_SENT_AT_ONCE", 50)
    monkeypatch.setattr(futures, "PREDICT_BLOCK_ROWS", 70)
    workers = tuple(client.nthreads())[:2]
    split = SPLIT if split_by == "rows" else split_among(2)
    plan = Plan("futures", split, workers, "a test asked for it", split_by=split_by)
    flat = np.random.default_rng(0).normal(size=SPLIT.n_parameters)
    parameters = SPLIT.unsplit_layout().views(flat)
    network, X = job_of("adam").network, dataset_of("adam").X
    outputs = FuturesEngine(plan, client).predict(network, parameters, convert(X))
    assert_allclose(outputs, predict_whole(network, parameters, X, 1000), rtol=1e-10)
