"""Groups of the "futures" engine on a cluster, and work for them."""

from skdistmlp.cluster.futures.driver import FuturesOps
from skdistmlp.training.lbfgs import LbfgsOptions, minimise
from skdistmlp.training.step import (
    training_step,
)
from tests.parallel.ops_contract import blocks_of_evaluations

HIDDEN = (5, 4)


def group_on(client, **options):
    """Return a factory of groups as the contract wants it."""

    def make_group(network, split, state, dataset, max_rows):
        workers = tuple(client.nthreads())[: split.n_shards]
        return FuturesOps(client, workers, network, split, state, dataset, **options)

    return make_group


def group_of(client, problem, **options):
    data = problem.dataset
    return group_on(client, **options)(
        problem.network, problem.split, problem.start(), data, data.n_rows
    )


LBFGS = LbfgsOptions(max_iter=4, max_fun=20, tol=1e-9)


def run_lbfgs(group, problem, blocks=None):
    """Return scipy's result; by default with blocks of some rows each."""
    blocks = blocks or blocks_of_evaluations(problem.dataset.n_rows)[1]
    return minimise(group, LBFGS, problem.initial.parameters, blocks)


def take_steps(group, n_steps, rows=slice(0, 8)):
    for _ in range(n_steps):
        training_step(group, rows, 0.01)
