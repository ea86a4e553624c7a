"""What workers of "futures" send each other: as the planner's formulas say."""

import numpy as np
import pytest

from skdistmlp import DistributedMLPClassifier
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.traffic import exchanges_of_tasks

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_STEPS, BATCH_SIZE = 3, 20


def forget_transfers(dask_worker):
    """Begin a worker's log again: it keeps the last of many only."""
    dask_worker.transfer_incoming_log.clear()


def bytes_received(dask_worker):
    """Return how many bytes of arrays a worker has fetched from others since then."""
    return sum(
        n_bytes
        for transfer in dask_worker.transfer_incoming_log
        for n_bytes in transfer["keys"].values()
        # Not losses, nor what says that a block has ended.
        if n_bytes >= BATCH_SIZE * 4
    )


@pytest.mark.parametrize("hidden", [(8,), (9, 6), (6, 9, 7)], ids=str)
@pytest.mark.parametrize("n_workers", [2, 3])
def test_workers_receive_what_the_formulas_say(client, hidden, n_workers):
    random = np.random.default_rng(0)
    X = random.standard_normal((N_STEPS * BATCH_SIZE, 5)).astype(np.float32)
    y = np.arange(len(X)) % 4
    client.run(forget_transfers)
    clf = DistributedMLPClassifier(
        hidden,
        engine="futures",
        client=client,
        n_workers=n_workers,
        batch_size=BATCH_SIZE,
        max_iter=1,
        random_state=0,
    ).fit(X, y)
    received = client.run(bytes_received)
    split = NetworkSplit.even((5, *hidden, 4), n_workers)
    cost = StepCost.of_step(BATCH_SIZE, itemsize=4)
    for shard, worker in enumerate(clf.plan_.workers):
        in_a_step = sum(
            exchange.received.n_bytes
            for exchange in exchanges_of_tasks(split, cost, shard)
        )
        assert received[worker] == N_STEPS * in_a_step > 0
    assert sum(received.values()) == N_STEPS * clf.plan_.bytes_exchanged
