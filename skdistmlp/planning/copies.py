"""Bytes of the copies of a fit's state, from which it recovers."""

from skdistmlp.parallel.grid import optimizer_parts
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost

GENERATIONS = 2
"""Copies of the same state that are held at once, at most: new ones count once all of
them have arrived, and until then those before them stay."""

ROW_INDEX_BYTES = 8
"""Bytes per row of the data set for its place in the order of rows."""


ITERATE_BYTES = 8
"""Bytes per parameter of the iterate of "lbfgs", in the precision of SciPy."""


def state_bytes(
    split: NetworkSplit, cost: StepCost, n_replicas: int = 1
) -> tuple[int, ...]:
    """Return the bytes of the training state of each process of a grid, by rank.

    Parameters and, with early stopping, the best ones; a replica's part of the moments;
    on the first process, the order of the rows and which of them are held out. The
    state of the random generator, 2.5 kB, is not counted.

    Parameters
    ----------
    split : NetworkSplit
        The layers, and the neurons of each shard.
    cost : StepCost
        What a step costs.
    n_replicas : int
        Number of replicas.
    """
    # The gradient is no state, nor is the sum of gradients of "lbfgs".
    n_whole = cost.arrays_of_parameters - cost.arrays_divided - 1
    if cost.moves_parameters:
        n_whole = 1
    layouts = [split.layout(shard) for shard in range(split.n_shards)]
    # Many shards have few different sizes, and many replicas divide each.
    bytes_of = {
        size: [
            cost.itemsize
            * (n_whole * layout.n_parameters + cost.arrays_divided * len(part))
            for part in optimizer_parts(layout.n_parameters, n_replicas)
        ]
        for size, layout in {layout.size: layout for layout in layouts}.items()
    }
    sizes = [
        bytes_of[layout.size][replica]
        for replica in range(n_replicas)
        for layout in layouts
    ]
    sizes[0] += ROW_INDEX_BYTES * cost.n_ordered_rows
    return tuple(sizes)


def bytes_of_copies(
    split: NetworkSplit, cost: StepCost, n_replicas: int = 1
) -> tuple[int, ...]:
    """Return the bytes that copies take on each worker of "peers", by rank.

    Each has copies of its own state, and of that of the process before it, whose
    *buddy* it is. A single process has no buddy, and there are no copies.

    Parameters
    ----------
    split, cost, n_replicas
        As for `state_bytes`.
    """
    sizes = state_bytes(split, cost, n_replicas)
    if len(sizes) == 1:
        return ()
    # The buddy of the last process is the first.
    return tuple(
        GENERATIONS * (sizes[rank] + sizes[rank - 1]) for rank in range(len(sizes))
    )


def bytes_of_copies_here(split: NetworkSplit, cost: StepCost) -> int:
    """Return the bytes that copies take in the process that runs "futures".

    The loop runs there, so it has that of the whole network: the copy before, the state
    as it arrives from the workers, and the new copy. "lbfgs" has its iterate in each.

    Parameters
    ----------
    split, cost
        As for `state_bytes`.
    """
    whole = NetworkSplit.even(split.layer_units, 1)
    n_bytes = sum(state_bytes(whole, cost))
    if cost.moves_parameters:
        n_bytes += ITERATE_BYTES * split.n_parameters
    return (GENERATIONS + 1) * n_bytes
