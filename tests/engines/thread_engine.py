"""A fourth engine, for tests: a network split among threads of this process."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cloudpickle

from skdistmlp.engines.choice import ENGINES
from skdistmlp.parallel.communicators import Communicator
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.rows import COPIES, RowHolding
from skdistmlp.parallel.shard import join_states
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.parallel.whole_network import predict_in_blocks
from skdistmlp.planning.plan import Plan
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.run import TrainingRun
from skdistmlp.training.state import TrainingState
from tests.thread_communicator import run_in_threads


class ThreadEngine:
    """Train one shard per share, each in a thread; see `Engine`.

    Each shard has a copy of the job, as if it had been sent, and runs it as a
    worker does.
    """

    def __init__(self, plan: Plan, rows: RowHolding = COPIES) -> None:
        self.plan = plan
        self._rows = rows

    def train(
        self,
        job: TrainingJob,
        dataset: Dataset,
        on_epoch_end: Any = None,
        checkpoint: Any = None,
    ) -> TrainingState:
        assert on_epoch_end is checkpoint is None, "no test needs callbacks here"
        dataset = dataset.to_local()

        def train_shard(communicator: Communicator) -> TrainingState:
            rank = communicator.rank
            own = pickle.loads(cloudpickle.dumps(job.for_rank(rank)))
            grid = own.grid
            layout = own.split.layout(grid.shard(rank))
            state = own.start(layout, grid.replica(rank))
            rows = self._rows
            if own.method.needs_all_features:
                rows = replace(rows, form="all")
            own_rows = dataset.parts(grid, rows)[rank]
            network = open_local_network(
                own.network,
                own.split,
                state.network,
                own_rows,
                communicator,
                own.max_rows(dataset),
            )
            log = {"log": own.log} if rank == 0 else {}
            run = TrainingRun(own, network, own_rows, state, **log)
            state = run.advance()
            return replace(state, network=network.state.fetch())

        states = run_in_threads(job.grid, train_shard)
        whole = join_states(job.split, [state.network for state in states])
        return replace(states[0], network=whole).as_if_ended()

    def predict(self, network: Any, parameters: Any, X: Any) -> Any:
        return predict_in_blocks(network, parameters, X)


def in_threads(
    estimator_class: type,
    shares: Sequence[float],
    n_replicas: int = 1,
    rows: RowHolding = COPIES,
) -> type:
    """Return the class of estimators whose networks are split among threads."""

    def make(plan: Plan, _client: Any) -> ThreadEngine:
        split = NetworkSplit.by_shares(plan.split.layer_units, shares)
        why = "a test asked for it"
        plan = Plan("threads", split, (), why, n_replicas=n_replicas)
        return ThreadEngine(plan, rows)

    return type(
        estimator_class.__name__,
        (estimator_class,),
        {"_engines": dict.fromkeys(ENGINES, make), "__module__": __name__},
    )
