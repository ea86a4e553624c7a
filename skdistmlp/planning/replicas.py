"""How many replicas: the rows' axis of the grid that trains a network."""

from collections.abc import Sequence

from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost, bytes_exchanged

REPLICAS_FROM_BYTES = 2**20
"""Bytes that a worker sends in a step from which replicas are considered. Fewer take so
little time that what counts is the number of exchanges, of which shards of a network
without a second hidden layer have one, and replicas two."""

REPLICAS_SAVE = 2
"""How many times fewer bytes replicas must send to be taken. Each of them updates more
parameters than a shard of as many workers, and has more of them in memory."""


def preferred_replicas(
    layer_units: Sequence[int], n_workers: int, cost: StepCost
) -> list[int]:
    """Return numbers of replicas to take, the best first; the last is 1.

    Along the neurons, workers exchange activations, whose number grows with the rows of
    a mini-batch; along the replicas, gradients and parameters, whose number does not.
    Those numbers of replicas are listed that divide the workers, give each replica a
    row, and send a good deal less than shards alone.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    n_workers : int
        Number of workers.
    cost : StepCost
        What a step costs.
    """
    sent = {
        n_replicas: bytes_exchanged(
            NetworkSplit.even(layer_units, n_workers // n_replicas), cost, n_replicas
        )
        for n_replicas in range(1, min(n_workers, cost.n_rows) + 1)
        if n_workers % n_replicas == 0
    }
    if sent[1] / n_workers < REPLICAS_FROM_BYTES:
        return [1]
    better = [n for n in sent if REPLICAS_SAVE * sent[n] <= sent[1]]
    return [*sorted(better, key=sent.__getitem__), 1]
