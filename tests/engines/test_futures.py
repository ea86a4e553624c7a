"""The futures engine: predictions by rows and by neurons, blocks within bounds."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csc_array

from skdistmlp.engines import futures
from skdistmlp.engines.futures import (
    ROWS_SENT_AT_ONCE,
    FuturesEngine,
    rows_per_block,
)
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


@pytest.mark.parametrize("n_workers", [1, 2, 3, 8])
@pytest.mark.parametrize("n_rows", [1, 5, 9_999, 20_001, 81_000, 90_000, 10**6])
def test_rows_are_shared_evenly_in_turns(n_workers, n_rows):
    n_block = rows_per_block(n_rows, n_workers)
    assert 1 <= n_block <= ROWS_SENT_AT_ONCE
    blocks = [min(n_block, n_rows - start) for start in range(0, n_rows, n_block)]
    n_turns = -(-len(blocks) // n_workers)
    most = max(sum(blocks[rank::n_workers]) for rank in range(n_workers))
    # A block is a whole number of rows.
    assert most < n_rows / n_workers + n_turns
    assert n_turns == -(-n_rows // (n_workers * ROWS_SENT_AT_ONCE))


def test_workers_are_sent_as_many_rows_at_once_as_is_allowed():
    assert rows_per_block(10**6, 2) == ROWS_SENT_AT_ONCE
    assert rows_per_block(90_000, 8) == 5_625
    assert rows_per_block(0, 8) == 1
