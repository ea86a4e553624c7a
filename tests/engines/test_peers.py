"""The peers engine refuses a plan that does not fit the workers' memory."""

from dataclasses import replace

import pytest

from skdistmlp import ClusterError
from skdistmlp.cluster.run import free_memory
from skdistmlp.engines import peers
from skdistmlp.engines.peers import PeersEngine
from skdistmlp.planning.memory import WorkerMemory
from tests.training.jobs import dataset_of, job_of, plan_of


def test_a_plan_that_does_not_fit_is_refused_before_anything_is_sent(
    client, monkeypatch
):
    plan = replace(plan_of("peers", client.nthreads(), 2), bytes_held=(100, 300))
    memory = dict.fromkeys(plan.workers, WorkerMemory(200))
    monkeypatch.setattr(free_memory, "worker_memory", lambda *_: memory)
    monkeypatch.setattr(
        peers, "train_with_recovery", lambda *_: pytest.fail("it was sent")
    )
    with pytest.raises(ClusterError, match="shard 1 would hold 300 bytes"):
        PeersEngine(plan, client).train(job_of("adam", 2), dataset_of("adam"))
