"""Networks of the "futures" engine on a cluster, and work for them."""

from skdistmlp.cluster.futures.driver import open_futures_network
from skdistmlp.training.lbfgs import LbfgsOptions, minimise
from skdistmlp.training.step import (
    training_step,
)
from tests.parallel.ops_contract import blocks_of_evaluations

HIDDEN = (5, 4)


def network_on(client, **options):
    """Return a factory of open networks as the contract wants it."""

    def open_network(network, split, state, dataset, max_rows):
        workers = tuple(client.nthreads())[: split.n_shards]
        return open_futures_network(
            client, workers, network, split, state, dataset, **options
        )

    return open_network


def network_of(client, problem, **options):
    data = problem.dataset
    return network_on(client, **options)(
        problem.network, problem.split, problem.start(), data, data.n_rows
    )


LBFGS = LbfgsOptions(max_iter=4, max_fun=20, tol=1e-9)


def run_lbfgs(network, problem, blocks=None):
    """Return scipy's result; by default with blocks of some rows each."""
    blocks = blocks or blocks_of_evaluations(problem.dataset.n_rows)[1]
    return minimise(network, LBFGS, blocks)


def take_steps(network, n_steps, rows=slice(0, 8)):
    for _ in range(n_steps):
        training_step(network.ops, rows, 0.01)
