"""An engine for tests: under an estimator, a network split among threads."""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from skdistmlp.engines.engines import EngineRequest, TrainingResult

from skdistmlp.estimators import base
from skdistmlp.parallel.communicators import Communicator
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.shard import ShardState, join_states
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.plan import Plan
from skdistmlp.training.job import TrainingJob, run_to_end
from tests.thread_communicator import run_in_threads


@contextmanager
def split_by(shares: Sequence[float]) -> Iterator[None]:
    """Let every estimator train on a shard for each of `shares`, in this process.

    Each shard has a copy of the job, as if it had been sent, and runs it as a
    worker does.
    """

    def train(
        request: EngineRequest, job: TrainingJob, dataset: Dataset, after_epoch: None
    ) -> TrainingResult:
        split = NetworkSplit.by_shares(job.network.layer_units, shares)
        dataset = dataset.prepared(job.dtype)
        job = replace(job, split=split)

        def shard(communicator: Communicator) -> tuple[TrainingJob, ShardState, Any]:
            rank = communicator.rank
            own = job.for_rank(rank)
            if own.say is not None:
                own = own.saying(print)
            own = pickle.loads(pickle.dumps(own))
            own = own.with_initial_state(split.layout(rank))
            group = own.shard(dataset, communicator)
            outcome = run_to_end(own.run(group, dataset))
            return own, group.collect(), outcome

        results = run_in_threads(split.n_shards, shard)
        first, _, outcome = results[0]
        job.random_state.set_state(first.random_state.get_state())
        state = join_states(split, [state for _, state, _ in results])
        plan = Plan("in memory", split, (), "a test asked for it")
        return TrainingResult(plan, state, first.progress, outcome)

    with patch.object(base, "train", train):
        yield
