"""Which plans there are, on machines that are made up, and what each takes."""

import math
import re
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.candidates import Candidate, FitLength, forecast_of
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.machines import Link, Machines, Speed
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.offer import (
    PEERS_FIT_S,
    PLACEMENTS_TRIED,
    Offer,
    grids_of,
    row_shares,
)
from skdistmlp.planning.plan import Plan, plan_training
from skdistmlp.planning.rates import (
    DASK_BYTE_S,
    REFERENCE,
    SCIPY_PARAMETER_S,
    TASK_S,
)

LARGE = 784, 1024, 1024, 10
"""A network that shards share well at 1 Gbit/s."""

SMALL = 64, 256, 256, 10

GBIT = 1e9

CALLS_PER_PROCESS = 100
"""Function calls that planning may take per process of a candidate: half as many again
as it does."""

COSTS = {
    "steps": StepCost.of_step(8_000, itemsize=4),
    "rows": StepCost.of_step(
        8_000, itemsize=4, data_bytes=8 * 10**9, feature_bytes=8 * 10**9
    ),
    "evaluations": StepCost.of_evaluation(60_000, buffer_rows=10_000),
}
"""Of a step, of one with rows that few workers have room for, and of "lbfgs"."""


def offer_of(
    units: tuple[int, ...] = LARGE,
    n_workers: int = 2,
    bits_per_s: float = GBIT,
    batch_size: int = 200,
    slow: tuple[int, ...] = (),
    far: tuple[int, ...] = (),
    **others: Any,
) -> Offer:
    """Return an offer of equal machines, but for some that take three times as long.

    And some that are `far` have links of a hundredth of the rate.
    """
    speeds = [
        Speed(REFERENCE, {Grid(1): 3.0} if number in slow else {})
        for number in range(n_workers)
    ]
    fast, slow_link = (
        Link.of_rate(rate, REFERENCE) for rate in (bits_per_s, bits_per_s / 100)
    )
    links = tuple(slow_link if number in far else fast for number in range(n_workers))
    memory = others.pop("memory", {})
    sizes = {"itemsize": 4, **others.pop("sizes", {})}
    return Offer(
        units,
        StepCost.of_step(batch_size, **sizes),
        FitLength(100, 100),
        tuple(f"tcp://worker{number}:1" for number in range(n_workers)),
        Machines(Speed(REFERENCE), tuple(speeds), links),
        memory,
        **others,
    )


def mixed_offer(n_workers: int = 1024) -> Offer:
    """Return an offer of workers of four speeds, with three kinds of links."""
    offer = offer_of((784, 4096, 4096, 10), n_workers, batch_size=8_000)
    kinds = [Speed(REFERENCE, {Grid(1): ratio}) for ratio in (1.0, 1.5, 2.0, 3.0)]
    rates = [Link.of_rate(rate, REFERENCE) for rate in (10 * GBIT, GBIT, GBIT / 10)]
    speeds = tuple(kinds[number % 4] for number in range(n_workers))
    links = tuple(rates[number // 4 % 3] for number in range(n_workers))
    machines = replace(offer.machines, workers=speeds, links=links)
    return replace(offer, machines=machines)


def with_rates_here(offer: Offer, *rates: float) -> Offer:
    """Return an offer in which workers send this process this many bits per second.

    The last rate is that of all others.
    """
    machines = offer.machines
    each = (*rates, *(rates[-1:] * (len(machines.links) - len(rates))))
    links = tuple(
        replace(link, here_bits_per_s=rate)
        for link, rate in zip(machines.links, each, strict=True)
    )
    return replace(offer, machines=replace(machines, links=links))


def best(offer: Offer) -> tuple[int, int]:
    """Return number of workers, and of replicas, of the best plan."""
    plan = offer.candidates()[0].plan
    return len(plan.workers), plan.n_replicas


def test_a_slow_link_keeps_training_in_this_process():
    assert best(offer_of(bits_per_s=1e7)) == (0, 1)
    assert best(offer_of(bits_per_s=1e7, n_workers=16)) == (0, 1)


def test_a_slow_link_of_this_process_keeps_rows_where_they_are():
    def best_on(rate, **others):
        sizes = {"data_bytes": 10**8, "feature_bytes": 10**8}
        offer = offer_of(sizes=sizes, **others)
        return best(with_rates_here(offer, rate))

    rates = 1e10, 1e8, 1e7, 1e6
    n_workers = [best_on(rate, n_workers=8, bits_per_s=10 * GBIT)[0] for rate in rates]
    # Each gets a copy of the rows.
    assert n_workers == sorted(n_workers, reverse=True)
    assert n_workers[0] > n_workers[1] > n_workers[-1] == 0
    on_cluster = {"bits_per_s": 1e7, "on_cluster": True}
    assert best_on(1e10, **on_cluster) == (0, 1)
    assert best_on(1e5, **on_cluster) == (1, 1)


def test_rows_are_not_slowed_down_by_the_links_of_workers_that_take_no_part():
    sizes = {"data_bytes": 10**8, "feature_bytes": 10**8}
    offer = offer_of(n_workers=3, bits_per_s=10 * GBIT, far=(0,), sizes=sizes)
    assert best(with_rates_here(offer, 1e6)) == (0, 1)
    without = with_rates_here(offer, 1e6, 1e9)
    assert best(without)[0] == 2
    (others,) = [c for c in without.candidates() if c.plan.n_shards == 2]
    assert others.plan.workers == without.workers[1:]
    # The rows to each, and the parameters from both.
    n_bytes = 2 * 10**8 + 4 * others.plan.split.n_parameters
    sent_s = n_bytes * (DASK_BYTE_S + 8e-9)
    assert others.fixed_s == pytest.approx(PEERS_FIT_S + sent_s)


def test_a_huge_network_is_split_into_shards():
    offer = offer_of((784, 8192, 8192, 10), n_workers=4, bits_per_s=10 * GBIT)
    assert best(offer) == (4, 1)


def test_a_network_without_hidden_layers_has_replicas_only():
    offer = offer_of((20_000, 10), n_workers=3, local=False)
    found = {(len(c.plan.workers), c.plan.n_replicas) for c in offer.candidates()}
    assert found == {(1, 1), (2, 2), (3, 3)}


def test_huge_batches_are_divided_among_replicas():
    assert best(offer_of(SMALL, n_workers=4, batch_size=20_000)) == (4, 4)


def test_a_huge_network_with_huge_batches_gets_a_grid():
    offer = offer_of((784, 4096, 4096, 10), n_workers=64, batch_size=8_000)
    n_workers, n_replicas = best(offer)
    assert 1 < n_replicas < n_workers


def test_a_slow_worker_is_left_out():
    offer = offer_of(n_workers=4, bits_per_s=10 * GBIT, slow=(1,))
    plan = offer.candidates()[0].plan
    assert plan.workers == tuple(offer.workers[number] for number in (0, 2, 3))


def workers_of(plan: Plan) -> list[int]:
    """Return the numbers of the workers of a plan."""
    return [int(re.findall(r"\d+", worker)[0]) for worker in plan.workers]


@pytest.mark.parametrize("far", [(0,), (1, 3)])
def test_a_worker_behind_a_slow_link_is_left_out(far):
    offer = offer_of(n_workers=6, bits_per_s=10 * GBIT, far=far)
    first = offer.candidates()[0]
    assert workers_of(first.plan) == [n for n in range(6) if n not in far]
    equal = offer_of(n_workers=6 - len(far), bits_per_s=10 * GBIT).candidates()[0]
    assert first.step == equal.step
    assert first.link == equal.link
    every = [c for c in offer.candidates() if len(c.plan.workers) == 6]
    assert min(c.fit_s for c in every) > 2 * first.fit_s
    assert {c.link for c in every} == {offer.machines.links[far[0]]}


def test_a_slow_link_is_used_where_little_is_exchanged():
    offer = offer_of((784, 4096, 10), n_workers=4, bits_per_s=100 * GBIT, far=(2,))
    assert sorted(workers_of(offer.candidates()[0].plan)) == [0, 1, 2, 3]


def test_a_worker_alone_may_have_a_slow_link():
    offer = offer_of(n_workers=3, slow=(0, 1), far=(2,), local=False, min_workers=1)
    alone = candidate_of(offer, 1)
    assert workers_of(alone.plan) == [2]
    assert alone.link is None


def test_as_many_workers_as_were_asked_for_are_taken_whatever_their_links():
    offer = replace(offer_of(n_workers=4, far=(0,)), n_workers=4)
    found = [c for c in offer.candidates() if c.plan.workers]
    assert {len(c.plan.workers) for c in found} == {4}
    three = replace(offer, n_workers=3)
    best_of_three = next(c for c in three.candidates() if c.plan.workers)
    assert workers_of(best_of_three.plan) == [1, 2, 3]
    # At least that many, if there are.
    pair = offer_of(n_workers=3, far=(0,), local=False, min_workers=3)
    assert {len(c.plan.workers) for c in pair.candidates()} == {3}


def test_workers_with_slow_links_are_taken_if_no_others_have_room():
    offer = offer_of(n_workers=4, far=(0, 1), local=False)
    full = {worker: WorkerMemory(1000) for worker in offer.workers[2:]}
    plans = [c.plan for c in replace(offer, memory=full).candidates()]
    assert {n for plan in plans for n in workers_of(plan)} == {0, 1}


@pytest.mark.parametrize(("n_workers", "slow"), [(15, (4,)), (30, (4, 9))])
def test_only_slow_workers_are_left_out_of_many(n_workers, slow):
    sizes = {"n_workers": n_workers, "batch_size": 20_000, "bits_per_s": 10 * GBIT}
    plan = offer_of(SMALL, slow=slow, **sizes).candidates()[0].plan
    fast = set(range(n_workers)) - set(slow)
    assert set(plan.workers) == {f"tcp://worker{number}:1" for number in fast}


def test_a_worker_that_has_to_be_used_holds_fewer_neurons_if_it_is_slow():
    offer = offer_of(n_workers=2, bits_per_s=10 * GBIT, slow=(0,))
    offer = replace(offer, n_workers=2, n_replicas=1)
    (candidate,) = [c for c in offer.candidates() if c.plan.workers]
    sizes = {
        worker: len(candidate.plan.split.ranges[0][shard])
        for shard, worker in enumerate(candidate.plan.workers)
    }
    assert sizes == {offer.workers[0]: 256, offer.workers[1]: 768}


def test_neurons_are_divided_evenly_whatever_the_common_speed_of_equal_workers():
    speeds = np.random.default_rng(0).uniform(0.5, 2.0, size=50)
    for common in map(float, speeds):
        offer = offer_of((64, 100, 100, 10), n_workers=8, local=False)
        equal = (Speed(REFERENCE, {Grid(1): common}),) * 8
        machines = replace(offer.machines, workers=equal)
        offer = replace(offer, machines=machines, n_workers=8, n_replicas=1)
        (candidate,) = offer.candidates()
        assert candidate.plan.split == NetworkSplit.even((64, 100, 100, 10), 8)


def test_a_slow_replica_computes_fewer_rows():
    offer = offer_of(SMALL, n_workers=2, batch_size=20_000, slow=(0,))
    offer = replace(offer, n_workers=2, n_replicas=2)
    (unequal,) = [c for c in offer.candidates() if c.plan.workers]
    assert unequal.plan.workers == offer.workers[::-1]
    assert unequal.plan.rows.shares == (24, 8)
    assert "of every 32 rows the replicas compute 24, 8" in str(unequal.plan)
    alone = offer_of(SMALL, n_workers=1, batch_size=20_000, local=False)
    # A third more of the same speed, but for what is exchanged.
    (one,) = alone.candidates()
    assert one.step.computed_s / unequal.step.computed_s == pytest.approx(4 / 3, 0.02)


def test_replicas_of_unequal_shards_compute_rows_by_their_slowest():
    assert row_shares(Grid(2, 2), [4.0, 2.0, 2.0, 1.0]) == (21, 11)
    assert row_shares(Grid(2, 2), [4.0, 2.0, 1.0, 1.0]) == (21, 11)
    assert row_shares(Grid(1, 3), [1.0, 1.0, 1.0]) == ()
    assert row_shares(Grid(3), [3.0, 2.0, 1.0]) == ()
    # However slow it is, it has a row.
    assert row_shares(Grid(1, 2), [1e3, 1.0]) == (32, 1)


def test_workers_out_of_reach_share_by_futures_where_these_have_room():
    offer = replace(offer_of(), cluster_engines=("futures",), local=False)
    (futures,) = offer.candidates()
    assert (futures.plan.engine, futures.plan.n_replicas) == ("futures", 1)
    assert futures.step.seconds > futures.step.computed_s
    needed = max(futures.plan.bytes_held)
    little = dict.fromkeys(offer.workers, WorkerMemory(needed - 1))
    assert replace(offer, memory=little).candidates() == []
    # It has no replicas.
    assert replace(offer, n_replicas=2).candidates() == []


def futures_on(offer: Offer) -> Candidate:
    """Return the candidate of the workers of an offer that share by tasks."""
    (found,) = replace(offer, cluster_engines=("futures",), local=False).candidates()
    return found


def test_a_step_of_tasks_takes_what_is_computed_scheduled_and_sent():
    offer = offer_of(n_workers=2, batch_size=200)
    candidate, (_, n_hidden, _, n_classes) = futures_on(offer), LARGE
    # Half of the activations, all that a shard knows of the deltas, and the logits.
    n_bytes = 4 * 200 * (n_hidden // 2 + n_hidden + n_classes)
    assert candidate.plan.bytes_exchanged == 2 * n_bytes
    assert candidate.messages_sent == 3
    step, (peers, *_) = candidate.step, replace(offer, n_replicas=1).candidates()
    assert peers.plan.engine == "peers"
    assert step.computed_s == pytest.approx(peers.step.computed_s)
    assert step.handled_s == pytest.approx(6 * TASK_S + DASK_BYTE_S * n_bytes)
    rate = offer.machines.links[0].bits_per_s
    latency_s = 3 * offer.machines.links[0].latency_s
    assert step.travelled_s == pytest.approx(latency_s + 8 * n_bytes / rate)
    assert step.hidden_s == 0


def test_a_step_of_tasks_that_clips_the_gradient_waits_for_its_norm():
    offer = offer_of()
    clipping = replace(offer, cost=replace(offer.cost, clips_gradient=True))
    more_s = futures_on(clipping).step.handled_s - futures_on(offer).step.handled_s
    assert more_s == pytest.approx(2 * TASK_S)


def test_lbfgs_by_tasks_sends_parameters_and_gradient_through_this_process():
    offer = replace(offer_of(), cost=StepCost.of_evaluation(200, itemsize=4))
    slow = with_rates_here(offer, 1e8)
    n_bytes = 2 * 4 * NetworkSplit.even(LARGE, 1).n_parameters
    more_s = futures_on(slow).step.seconds - futures_on(offer).step.seconds
    rate = offer.machines.links[0].bits_per_s
    assert more_s == pytest.approx(n_bytes * 8 * (1e-8 - 1 / rate))


def test_lbfgs_by_tasks_schedules_each_block_of_rows():
    offer = replace(offer_of(), cost=StepCost.of_evaluation(200, itemsize=4))
    in_blocks = replace(offer, cost=replace(offer.cost, buffer_rows=30))
    one, seven = futures_on(offer).step, futures_on(in_blocks).step
    assert seven.handled_s - one.handled_s == pytest.approx(6 * 6 * TASK_S)


def test_tasks_share_neurons_in_proportion_to_speed():
    offer = offer_of(n_workers=2, slow=(0,))
    split = futures_on(offer).plan.split
    assert [len(part) for part in split.ranges[0]] == [256, 768]
    # No more workers than neurons.
    few = futures_on(offer_of((784, 3, 10), n_workers=5))
    assert few.plan.n_shards == len(few.plan.workers) == 3


def test_what_the_user_has_fixed_is_obeyed():
    offer = replace(offer_of(n_workers=8), local=False, n_workers=6, n_replicas=3)
    assert [c.plan.grid for c in offer.candidates()] == [Grid(2, 3)]
    offer = replace(offer_of(n_workers=8), local=False, n_replicas=4)
    assert {c.plan.n_replicas for c in offer.candidates()} == {4}
    assert {len(c.plan.workers) for c in offer.candidates()} == {4, 8}


def test_plans_without_room_are_no_candidates():
    needed = max(
        c.plan.bytes_held[0] for c in offer_of().candidates() if c.plan.workers
    )
    little = {f"tcp://worker{n}:1": WorkerMemory(needed // 8) for n in range(2)}
    offer = offer_of(bits_per_s=10 * GBIT, memory=little)
    assert best(offer) == (0, 1)
    assert replace(offer, local=False).candidates() == []


def test_workers_without_room_are_left_out_for_equal_ones_that_have_it():
    offer = replace(offer_of(n_workers=3, local=False), n_replicas=1, min_workers=2)
    (two,) = [c for c in offer.candidates() if len(c.plan.workers) == 2]
    needed = max(two.plan.bytes_held)
    first, second, third = offer.workers

    def taken(*limits):
        memory = dict(zip(offer.workers, map(WorkerMemory, limits), strict=True))
        found = replace(offer, memory=memory).candidates()
        return {c.plan.workers for c in found if len(c.plan.workers) == 2}

    assert taken(needed // 2, 4 * needed, 4 * needed) == {(second, third)}
    # Where the first ones have room, they stay the first.
    assert taken(2 * needed, 2 * needed, 4 * needed) == {(first, second)}
    assert taken(needed // 2, needed // 2, 4 * needed) == set()


def test_fast_workers_without_room_are_left_out_for_slow_ones_that_have_it():
    offer = offer_of(n_workers=4, slow=(2, 3), local=False, bits_per_s=10 * GBIT)
    slow = offer.workers[2:]

    def taken(*limits):
        memory = dict(zip(offer.workers, map(WorkerMemory, limits), strict=True))
        return {c.plan.workers for c in replace(offer, memory=memory).candidates()}

    assert taken(10**3, 10**3, 10**12, 10**12) == {slow[:1], slow}
    # As many as have room, the fastest first.
    first, *_ = offer.workers
    assert taken(10**12, 10**3, 10**12, 10**12) == {
        (first,),
        (first, slow[0]),
        (first, *slow),
    }
    assert taken(10**3, 10**3, 10**3, 10**3) == set()


def test_placements_tried_are_bounded(monkeypatch):
    # Of any two neighbours, the faster one has more neurons, and just no room for them.
    speeds = tuple(Speed(REFERENCE, {Grid(1): 1.1**number}) for number in range(64))
    offer = replace(offer_of(n_workers=64, local=False), n_workers=2, n_replicas=1)
    offer = replace(offer, machines=replace(offer.machines, workers=speeds))
    more, less = offer.candidates()[0].plan.bytes_needed
    memory = dict.fromkeys(offer.workers, WorkerMemory((more + less) // 2))
    first_workers = []

    def plan(units, engine, workers, *others):
        first_workers.append(workers[0])
        return plan_training(units, engine, workers, *others)

    monkeypatch.setattr("skdistmlp.planning.offer.plan_training", plan)
    assert replace(offer, memory=memory).candidates() == []
    tried = list(dict.fromkeys(first_workers))
    assert tried == list(offer.workers[: 1 + PLACEMENTS_TRIED])


def with_full_workers(offer: Offer, limit: int, *full: int) -> Offer:
    """Return an offer of workers with this much memory, of which some have none."""
    memory = {
        worker: WorkerMemory(limit, taken=limit if number in full else 0)
        for number, worker in enumerate(offer.workers)
    }
    return replace(offer, memory=memory)


@pytest.mark.parametrize("n_workers", [16, 64])
def test_all_workers_but_full_ones_are_considered(n_workers):
    huge = 784, 4096, 4096, 10
    sizes = {"batch_size": 2000, "bits_per_s": 10 * GBIT, "local": False}
    offer = offer_of(huge, n_workers=n_workers, **sizes)
    first = with_full_workers(offer, 10**12, 3).candidates()[0]
    assert 3 not in workers_of(first.plan)
    others = offer_of(huge, n_workers=n_workers - 1, **sizes).candidates()[0]
    assert (first.plan.grid, first.fit_s) == (others.plan.grid, others.fit_s)
    assert first.plan.n_workers > 3 * n_workers // 4


def test_a_network_that_only_fits_on_most_workers_has_a_plan():
    huge = 784, 4096, 4096, 10
    offer = offer_of(huge, n_workers=16, batch_size=2000, local=False)
    offer = replace(offer, n_replicas=1)
    (on_eleven,) = replace(offer, n_workers=11).candidates()
    limit = max(on_eleven.plan.bytes_needed)
    found = with_full_workers(offer, limit, 0, 1, 2, 8).candidates()
    assert {c.plan.grid for c in found} == {Grid(12)}
    # With fewer, none has room.
    assert with_full_workers(offer, limit, 0, 1, 2, 8, 9, 10).candidates() == []


def test_workers_without_room_for_copies_of_the_rows_may_be_left_out():
    sizes = {"data_bytes": 10**9, "feature_bytes": 10**9}
    offer = offer_of(n_workers=13, batch_size=2000, sizes=sizes, local=False)
    offer = replace(offer, n_replicas=1)
    memory = dict.fromkeys(offer.workers, WorkerMemory(4 * 10**9))
    memory[offer.workers[5]] = WorkerMemory(5 * 10**8)
    offer = replace(offer, memory=memory)
    forms = {c.plan.n_workers: c.plan.rows.form for c in offer.candidates()}
    assert (forms[12], forms[13]) == ("copies", "once")
    # A third of the memory is for rows at most.
    memory[offer.workers[5]] = WorkerMemory(2 * 10**9)
    offer = replace(offer, memory=memory, memory_share=1 / 3)
    forms = {c.plan.n_workers: c.plan.rows.form for c in offer.candidates()}
    assert (forms[12], forms[13]) == ("copies", "once")


def test_workers_that_are_slow_or_full_are_left_out():
    offer = offer_of(SMALL, 30, 10 * GBIT, 20_000, slow=(4, 9), local=False)
    offer = with_full_workers(offer, 10**12, 0)
    every = candidate_of(offer, 27).plan
    assert set(workers_of(every)) == {*range(30)} - {0, 4, 9}
    # Nearly as fast, and with many divisors.
    assert offer.candidates()[0].plan.n_workers == 24


def test_this_process_is_no_candidate_without_room():
    huge = 100_000, 200_000, 10
    little = {f"tcp://worker{n}:1": WorkerMemory(4 * 10**9) for n in range(2)}
    offer = offer_of(huge, memory=little)
    alone = replace(offer, memory_here=400 * 10**9)
    (here,) = alone.candidates()
    assert here.plan.engine == "local"
    # Parameters, gradient and two moments, and the activations of a step.
    assert here.bytes_here == pytest.approx(4 * 4 * 200_000 * 100_011, rel=0.01)
    (row,) = forecast_of([here], offer).rows
    assert row.bytes_held == here.bytes_here
    assert replace(offer, memory_here=here.bytes_here - 1).candidates() == []


def test_tasks_need_room_in_this_process_for_what_scipy_keeps():
    offer = offer_of(n_workers=8, bits_per_s=1e7, local=False)
    offer = replace(offer, cluster_engines=("peers", "futures"))
    n_parameters = NetworkSplit.even(LARGE, 1).n_parameters

    def engines(cost, memory_here, on_cluster=False):
        tried = replace(
            offer, cost=cost, memory_here=memory_here, on_cluster=on_cluster
        )
        return {candidate.plan.engine for candidate in tried.candidates()}

    sizes = {"itemsize": 4, "data_bytes": 10**6, "feature_bytes": 10**6}
    # SciPy's vectors, the parameters, and the gradient twice.
    needed = n_parameters * (27 * 8 + 3 * 4)
    lbfgs = StepCost.of_evaluation(200, **sizes)
    assert engines(lbfgs, needed) == {"peers", "futures"}
    assert engines(lbfgs, needed - 1) == {"peers"}
    # Rows that have to be fetched first.
    assert engines(lbfgs, needed, on_cluster=True) == {"peers"}
    assert engines(lbfgs, needed + 10**6, on_cluster=True) == {"peers", "futures"}
    epochs = StepCost.of_step(200, **sizes)
    assert engines(epochs, 4 * n_parameters) == {"peers", "futures"}
    assert engines(epochs, 4 * n_parameters - 1) == {"peers"}


def test_each_worker_of_tasks_needs_its_share_of_memory_for_all_rows():
    sizes = {"data_bytes": 10**9, "feature_bytes": 9 * 10**8}
    memory = {f"tcp://worker{n}:1": WorkerMemory(10**10) for n in range(2)}
    offer = offer_of(sizes=sizes, memory=memory, local=False)
    offer = replace(offer, cluster_engines=("futures",))
    (found,) = replace(offer, memory_share=0.1).candidates()
    assert found.plan.features_in_memory == 9 * 10**8
    assert replace(offer, memory_share=0.08).candidates() == []


def test_only_rows_on_the_cluster_need_more_room_in_this_process():
    sizes = {"data_bytes": 10**9, "feature_bytes": 9 * 10**8}
    offer = offer_of(sizes=sizes, memory_here=9 * 10**8)
    assert 0 in [len(c.plan.workers) for c in offer.candidates()]
    there = replace(offer, on_cluster=True)
    assert 0 not in [len(c.plan.workers) for c in there.candidates()]


def test_rows_are_held_once_where_copies_have_no_room():
    sizes = {"data_bytes": 10**9, "feature_bytes": 10**9}
    limit = {f"tcp://worker{n}:1": WorkerMemory(8 * 10**8) for n in range(2)}
    offer = replace(
        offer_of(sizes=sizes, memory=limit, bits_per_s=10 * GBIT), n_replicas=1
    )
    (candidate,) = [c for c in offer.candidates() if len(c.plan.workers) == 2]
    assert candidate.plan.rows.form == "once"
    # Without limits, the features need not be gathered.
    free = replace(offer, memory={}, local=False).candidates()[0]
    assert free.plan.rows.form == "copies"
    assert free.step.travelled_s < candidate.step.travelled_s


def test_the_fixed_cost_of_a_fit_counts():
    offer = offer_of(bits_per_s=10 * GBIT)
    assert best(offer) == (2, 1)
    assert best(replace(offer, length=FitLength(1, 1))) == (0, 1)


def test_features_are_sent_or_fetched_once_in_a_fit():
    sizes = {"data_bytes": 10**9, "feature_bytes": 10**9}
    here = offer_of(sizes=sizes, n_workers=2)
    there = replace(here, on_cluster=True)
    second_s = 1e9 * (DASK_BYTE_S + 8 / here.machines.links[0].bits_per_s)

    def fixed_s(offer, n_workers, n_replicas=1):
        (found,) = (
            c.fixed_s
            for c in offer.candidates()
            if (len(c.plan.workers), c.plan.n_replicas) == (n_workers, n_replicas)
        )
        return found

    assert fixed_s(here, 0) == 0
    assert fixed_s(there, 0) == pytest.approx(second_s)
    # A copy for each shard, a half for each replica; workers compute what they need.
    more_s = fixed_s(here, 2) - fixed_s(there, 2)
    assert more_s == pytest.approx(2 * second_s)
    assert fixed_s(here, 2, 2) - fixed_s(there, 2, 2) == pytest.approx(second_s)


def test_rows_that_have_to_move_among_workers_count():
    feature_bytes = 8 * 10**9
    sizes = {"data_bytes": feature_bytes, "feature_bytes": feature_bytes}
    offer = offer_of(n_workers=8, batch_size=2000, sizes=sizes, on_cluster=True)
    held = dict.fromkeys(offer.workers, 10**9)
    offer = replace(offer, length=FitLength(1000, 1), bytes_on_workers=held)
    byte_s = DASK_BYTE_S + 8 / offer.machines.links[0].bits_per_s
    free_s = replace(offer, cost=StepCost.of_step(2000, itemsize=4))

    def fetch_s(n_replicas, n_shards):
        one, other = (
            next(
                c.fixed_s
                for c in each.candidates()
                if c.plan.grid == Grid(n_shards, n_replicas)
            )
            for each in (offer, free_s)
        )
        return one - other

    # A copy of half of the rows, of which each has an eighth of all; all but that.
    assert fetch_s(2, 4) == pytest.approx(3e9 * byte_s, rel=1e-6)
    assert fetch_s(1, 8) == pytest.approx(7e9 * byte_s, rel=1e-6)
    assert fetch_s(8, 1) == pytest.approx(0, abs=1e-6)
    # What has to be moved decides: without it, more shards were faster.
    assert best(free_s) == (6, 2)
    n_workers, n_replicas = best(offer)
    assert n_workers / n_replicas < 3


def test_of_equal_workers_those_with_the_rows_are_taken():
    sizes = {"data_bytes": 10**9, "feature_bytes": 10**9}
    offer = offer_of(n_workers=4, sizes=sizes, on_cluster=True, local=False)
    held = {offer.workers[1]: 5 * 10**8, offer.workers[3]: 5 * 10**8}
    offer = replace(offer, bytes_on_workers=held, n_replicas=2)
    assert workers_of(candidate_of(offer, 2).plan) == [1, 3]
    # Not if others are faster.
    speeds = (Speed(REFERENCE), *(Speed(REFERENCE, {Grid(1): 2.0}),) * 3)
    offer = replace(offer, machines=replace(offer.machines, workers=speeds))
    assert workers_of(candidate_of(offer, 2).plan) == [0, 1]


@pytest.mark.parametrize("engine", ["peers", "futures"])
def test_scipy_takes_as_long_here_as_on_workers(engine, monkeypatch):
    def steps_s():
        offer = offer_of(cluster_engines=(engine,))
        offer = replace(offer, cost=StepCost.of_evaluation(200))
        return [candidate_of(offer, n).step.seconds for n in (0, 2)]

    with_scipy = steps_s()
    monkeypatch.setattr("skdistmlp.planning.step_time.SCIPY_PARAMETER_S", 0.0)
    of_scipy = SCIPY_PARAMETER_S * NetworkSplit.even(LARGE, 1).n_parameters
    assert with_scipy == pytest.approx([s + of_scipy for s in steps_s()])


def test_parameters_are_collected_at_the_end_of_a_fit():
    units = 10_000, 10_000, 10
    (candidate,) = offer_of(units, n_workers=1, local=False).candidates()
    # 400 MB at 1 Gbit/s.
    n_bytes = 4 * candidate.plan.split.n_parameters
    byte_s = DASK_BYTE_S + 8 / offer_of().machines.links[0].bits_per_s
    assert n_bytes * byte_s > 3
    assert candidate.fixed_s == pytest.approx(PEERS_FIT_S + n_bytes * byte_s)


def test_grids_give_each_replica_a_row_and_each_shard_a_neuron():
    cost = StepCost.of_step(3)
    assert list(grids_of(8, (4, 2, 2), cost)) == []
    assert list(grids_of(6, (4, 3, 2), cost)) == [Grid(3, 2), Grid(2, 3)]
    ordered = StepCost.of_step(100, in_ordered_blocks=True)
    assert list(grids_of(6, (4, 8, 2), ordered)) == [Grid(6)]


def candidates_and_calls(offer: Offer) -> tuple[list[Candidate], int]:
    """Return the candidates of an offer, and the number of function calls they took."""
    n_calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal n_calls
        n_calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return offer.candidates(), n_calls
    finally:
        sys.setprofile(before)


def assert_work_is_bounded(offer: Offer) -> None:
    """Check what it takes to plan a thousand workers."""
    candidates, n_calls = candidates_and_calls(offer)
    assert all(math.isfinite(c.fit_s) for c in candidates)
    assert max(len(c.plan.workers) for c in candidates) == 1024
    # A few for each process of each candidate, which are at most 1,024.
    n_processes = sum(len(c.plan.workers) for c in candidates)
    assert n_calls < CALLS_PER_PROCESS * n_processes


@pytest.mark.parametrize("n_speeds", [1, 2, 1024])
@pytest.mark.parametrize("n_far", [0, 24])
def test_work_to_plan_a_thousand_workers_is_bounded(n_speeds, n_far):
    far = tuple(range(500, 500 + n_far))
    offer = offer_of((784, 4096, 4096, 10), n_workers=1024, batch_size=8_000, far=far)
    ratios = np.linspace(1, 3, n_speeds)
    speeds = tuple(
        Speed(REFERENCE, {Grid(1): float(ratios[number % n_speeds])})
        for number in range(1024)
    )
    assert_work_is_bounded(
        replace(offer, machines=replace(offer.machines, workers=speeds))
    )


@pytest.mark.parametrize(
    ("what", "limit"), [("steps", 4), ("rows", 4), ("evaluations", 10)]
)
def test_work_to_plan_a_thousand_mixed_workers_is_bounded(what, limit):
    offer = replace(mixed_offer(), cost=COSTS[what])
    memory = dict.fromkeys(offer.workers, WorkerMemory(limit * 10**9))
    assert_work_is_bounded(replace(offer, memory=memory))


def test_no_plan_is_made_of_workers_without_room_for_their_rows(monkeypatch):
    offer = offer_of(n_workers=4, local=False, on_cluster=True)
    memory = {
        worker: WorkerMemory(limit)
        for worker, limit in zip(
            offer.workers, (10**9, 10**10, 10**9, 10**10), strict=True
        )
    }
    offer = replace(offer, cost=COSTS["rows"], memory=memory, n_workers=2)
    tried = []

    def plan(units, engine, workers, cost, shares, n_replicas, rows):
        tried.append((n_replicas, rows.form, rows.on_disk, workers))
        return plan_training(units, engine, workers, cost, shares, n_replicas, rows)

    monkeypatch.setattr("skdistmlp.planning.offer.plan_training", plan)
    replace(offer, cluster_engines=("peers",)).candidates()
    able = offer.workers[1::2]
    assert tried == [(1, "copies", False, able), (2, "copies", False, able)]


def candidate_of(offer: Offer, n_workers: int) -> Candidate:
    """Return the best candidate with this number of workers."""
    return next(c for c in offer.candidates() if len(c.plan.workers) == n_workers)
