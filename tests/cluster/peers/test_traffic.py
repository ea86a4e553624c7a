"""What worker processes send each other in training: as the planner's formulas say."""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

from skdistmlp import DistributedMLPClassifier
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.traffic import Traffic, traffic
from skdistmlp.wire import transfers
from skdistmlp.wire.packet import HEADER_BYTES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_WORKERS, BATCH_SIZE = 3, 21
UNITS = 5, 9, 7, 4


def begin_to_count():
    """Count what all connections send that this worker opens from now on."""
    plain, sent = transfers.Link.__post_init__, Counter()

    def make_counting(link):
        plain(link)
        send = link.send

        def send_and_count(views):
            # A header goes with the beginning of its array, or not at all.
            is_packet = views[0].nbytes == HEADER_BYTES
            n_bytes = send(views)
            sent["bytes"] += n_bytes - HEADER_BYTES * is_packet
            sent["messages"] += is_packet
            return n_bytes

        link.send = send_and_count

    make_counting.plain, make_counting.sent = plain, sent
    transfers.Link.__post_init__ = make_counting


def end_counting():
    """Open connections as before; return what was counted."""
    counting = transfers.Link.__post_init__
    transfers.Link.__post_init__ = counting.plain
    return Traffic(counting.sent["bytes"], counting.sent["messages"])


@contextmanager
def counted(client):
    """Yield a dict that has what each worker has sent once the context ends."""
    client.run(begin_to_count)
    sent = {}
    try:
        yield sent
    finally:
        sent |= client.run(end_counting)


@pytest.mark.parametrize("n_replicas", [1, N_WORKERS])
def test_three_workers_send_what_the_formulas_say(client, n_replicas):
    def sent_in(n_steps):
        random = np.random.default_rng(0)
        X = random.standard_normal((n_steps * BATCH_SIZE, UNITS[0])).astype(np.float32)
        clf = DistributedMLPClassifier(
            UNITS[1:-1],
            engine="peers",
            client=client,
            n_workers=N_WORKERS,
            n_replicas=n_replicas,
            batch_size=BATCH_SIZE,
            max_iter=1,
            random_state=0,
            shuffle=False,
        )
        with counted(client) as sent:
            clf.fit(X, np.arange(len(X)) % UNITS[-1])
        return [sent[worker] for worker in clf.plan_.workers]

    # What is sent once in an epoch, or in a fit, is not that of a step.
    few, many = sent_in(2), sent_in(5)
    split = NetworkSplit.even(UNITS, N_WORKERS // n_replicas)
    cost = StepCost.of_step(BATCH_SIZE, itemsize=4)
    for rank, (first, second) in enumerate(zip(few, many, strict=True)):
        of_step = traffic(split, cost, n_replicas, rank)
        assert second.n_bytes - first.n_bytes == 3 * of_step.n_bytes > 0
        assert second.n_messages - first.n_messages == 3 * of_step.n_messages
