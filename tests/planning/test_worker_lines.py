"""Printed plans name each of a few workers, and sum up many."""

import re
from dataclasses import replace

import pytest

from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.plan import Plan, plan_training
from skdistmlp.planning.worker_lines import MAX_LISTED, worker_lines

COST = StepCost.of_step(200, itemsize=4, data_bytes=10**6, feature_bytes=9 * 10**5)


def names(n_workers):
    return [f"tcp://10.0.0.{number}:40001" for number in range(n_workers)]


def plan_of(units, n_workers, n_replicas=1, threads=None):
    return plan_training(
        units, "peers", names(n_workers), COST, threads, n_replicas=n_replicas
    )


@pytest.mark.parametrize(("n_workers", "n_replicas"), [(1, 1), (2, 1), (4, 2), (8, 4)])
def test_each_of_a_few_workers_has_a_line(n_workers, n_replicas):
    plan = plan_of((5, 6, 3), n_workers, n_replicas)
    lines = worker_lines(plan)
    assert len(lines) == n_workers <= MAX_LISTED
    for rank, line in enumerate(lines):
        numbers = plan.split.ranges[0][plan.grid.shard(rank)]
        neurons = f"{numbers.start}-{numbers.stop - 1}"
        assert line == (
            f"{plan.grid.title(rank)} on tcp://10.0.0.{rank}:40001: "
            f"{plan.bytes_held[rank]:,} bytes, layer 0: neurons {neurons}, "
            f"layer 1 (output): inputs {neurons}"
        )


def test_sixty_four_workers_of_a_grid_are_summed_up():
    plan = plan_of((784, 1024, 100, 10), 64, 4)
    held = plan.bytes_held
    least, most = min(held), max(held)
    head = str(plan).splitlines()[:2]
    assert head == [
        "peers: engine='peers' was asked for",
        "network 784-1024-100-10, 907,350 parameters, 16 shards in each of 4 replicas",
    ]
    assert str(plan).splitlines()[-9:] == worker_lines(plan)
    assert worker_lines(plan) == [
        f"64 workers hold {least:,} to {most:,} bytes each, {sum(held):,} together",
        f"least: {least:,} bytes, shard 1 of replica 0 on tcp://10.0.0.1:40001",
        f"most: {most:,} bytes, {plan.grid.title(held.index(most))} on "
        f"tcp://10.0.0.{held.index(most)}:40001",
        "each shard: layer 0: 64 of 1,024 neurons, layer 1: 6-7 of 100 neurons, "
        "layer 2 (output): 6-7 of 100 inputs",
        *(
            f"replica {replica}: 16 shards on tcp://10.0.0.{first}:40001, "
            f"tcp://10.0.0.{first + 1}:40001, tcp://10.0.0.{first + 2}:40001, …, "
            f"tcp://10.0.0.{first + 15}:40001"
            for replica, first in enumerate([0, 16, 32, 48])
        ),
        "the attributes split, workers, bytes_held of this plan have every worker",
    ]


@pytest.mark.parametrize("n_replicas", [1, 2, 4, 8, 16, 32, 64])
def test_a_summary_is_short_on_every_grid_of_sixty_four(n_replicas):
    plan = plan_of((784, 1024, 1024, 10), 64, n_replicas)
    lines = worker_lines(plan)
    assert len(lines) <= 13
    assert max(map(len, lines)) <= 132
    text = "\n".join(lines)
    assert f"{min(plan.bytes_held):,}" in text
    assert f"{max(plan.bytes_held):,}" in text
    # The first worker and the last, wherever they are.
    assert plan.workers[0] in text
    assert plan.workers[-1] in text
    if n_replicas > 8:
        listed = re.findall(r"^replica (\d+)", text, re.MULTILINE)
        left_out = n_replicas - len(listed)
        if n_replicas == 64:
            whole = "the whole network in each of 64 replicas: tcp://10.0.0.0:40001, "
            assert whole in text
        else:
            assert listed[-1] == str(n_replicas - 1)
            assert f"… {left_out} more replicas" in text


def test_shards_that_hold_alike_are_counted_once():
    plan = plan_of((784, 640, 10), 64)
    alike = replace(plan, bytes_held=(700,) * 64)
    assert worker_lines(alike)[:2] == [
        "64 workers hold 700 bytes each, 44,800 together",
        "each shard: layer 0: 10 of 640 neurons, layer 1 (output): 10 of 640 inputs",
    ]
    # Workers with more threads hold more.
    threads = [1] * 32 + [3] * 32
    assert "layer 0: 5-15 of 640 neurons" in str(
        plan_of((784, 640, 10), 64, threads=threads)
    )


def test_a_narrow_layer_leaves_some_shards_without_neurons():
    plan = plan_of((5, 64, 3, 2), 64)
    assert "layer 1: 0-1 of 3 neurons" in str(plan)


def test_predictions_by_rows_name_the_first_workers_and_the_last():
    whole = NetworkSplit.even((5, 4, 3), 1)
    plan = Plan("futures", whole, tuple(names(64)), "a test", split_by="rows")
    assert worker_lines(plan) == [
        "the whole network on each of 64 workers: tcp://10.0.0.0:40001, "
        "tcp://10.0.0.1:40001, tcp://10.0.0.2:40001, …, tcp://10.0.0.63:40001"
    ]
    assert len(worker_lines(replace(plan, workers=tuple(names(3))))) == 3


def test_predictions_by_neurons_have_no_bytes():
    split = NetworkSplit.even((5, 64, 3), 64)
    lines = worker_lines(Plan("futures", split, tuple(names(64)), "a test"))
    assert lines[0].startswith("each shard: layer 0: 1 of 64 neurons")
    assert lines[-1] == "the attributes split, workers of this plan have every worker"
