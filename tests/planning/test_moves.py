"""When a fit should move to another plan, on machines that are made up."""

from dataclasses import replace

import pytest

from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.moves import (
    PAYS,
    as_slow_as_seen,
    expected_slowness,
    move_that_pays,
    slowness,
)
from skdistmlp.planning.plan import plan_training
from tests.planning.test_offer import GBIT, LARGE, offer_of

FAST = 10 * GBIT


def plan_on(offer, n_workers, **others):
    """Return the plan of a fit on the first workers of an offer."""
    plan = plan_training(LARGE, "peers", offer.workers[:n_workers], offer.cost)
    return replace(plan, **others)


def offer_to(n_workers=2, **others):
    return offer_of(n_workers=n_workers, bits_per_s=FAST, local=False, **others)


def test_a_fit_moves_to_workers_that_have_joined():
    offer = offer_to(2)
    plan = plan_on(offer, 1, recoveries=("one",))
    move = move_that_pays(plan, offer, 1.0, cost_s=1.0)
    assert move.plan.workers == offer.workers
    assert move.plan.recoveries == ("one",)
    assert move.plan.forecast.rows[0].n_workers == 2
    assert "2 workers should train 1." in move.plan.reason
    assert "as fast as 1 worker did before" in move.plan.reason
    assert "s until the end, for 1.0 s" in move.why


def test_a_fit_leaves_a_worker_whose_link_is_slow():
    offer = offer_to(4, far=(2,))
    move = move_that_pays(plan_on(offer, 4), offer, 10.0, cost_s=1.0)
    assert move.plan.workers == tuple(offer.workers[n] for n in (0, 1, 3))
    # On the others it has nothing to move for.
    plan = replace(plan_on(offer, 3), workers=move.plan.workers)
    assert move_that_pays(plan, offer, 10.0, cost_s=0.0) is None


def test_a_move_has_to_save_more_than_it_costs():
    offer = offer_to(2)
    plan = plan_on(offer, 1)
    alone, both = (
        next(c for c in offer.candidates() if len(c.plan.workers) == n) for n in (1, 2)
    )
    saved_s = (alone.step.seconds - both.step.seconds) * offer.length.total
    assert move_that_pays(plan, offer, 1.0, 0.99 * saved_s / PAYS) is not None
    assert move_that_pays(plan, offer, 1.0, 1.01 * saved_s / PAYS) is None
    few = replace(offer, length=offer.length._replace(n_epochs=1))
    assert move_that_pays(plan, few, 1.0, 0.5 * saved_s / PAYS) is None


def test_a_fit_that_is_faster_than_predicted_stays():
    offer = offer_to(2)
    then_s = offer.candidates()[0].step.seconds
    plan = plan_on(offer, 1)
    assert move_that_pays(plan, offer, 1.05 * then_s, cost_s=0.0) is None
    assert move_that_pays(plan, offer, 1.2 * then_s, cost_s=0.0) is not None


def test_a_fit_on_the_best_plan_stays():
    offer = offer_to(2)
    assert move_that_pays(plan_on(offer, 2), offer, 1.0, cost_s=0.0) is None


def test_a_slow_worker_is_replaced_by_a_spare_one():
    offer = replace(offer_to(3, slow=(1,)), n_workers=2)
    move = move_that_pays(plan_on(offer, 2, fixed=(2, None)), offer, 1.0, cost_s=1.0)
    assert set(move.plan.workers) == {offer.workers[0], offer.workers[2]}
    assert move.plan.fixed == (2, None)


@pytest.mark.parametrize(
    ("computed_s", "expected"),
    [
        ([9.0], {}),
        ([6.0, 8.0], {}),
        ([5.0, 10.0], {1: 2.0}),
        ([4.0, 12.0, 4.0], {1: 3.0}),
        # As a clock may show it.
        ([0.0, 1.0], {}),
    ],
)
def test_a_slow_worker_computes_longer_than_the_others(computed_s, expected):
    offer = offer_to(3)
    n_workers = len(computed_s)
    plan = plan_on(offer, n_workers, split=NetworkSplit.even(LARGE, n_workers))
    slow = slowness(plan, offer.cost, computed_s)
    # Three shards cannot have as many neurons as each other.
    expected = {plan.workers[rank]: times for rank, times in expected.items()}
    assert slow == pytest.approx(expected, rel=0.01)


def test_a_worker_that_has_less_of_the_network_is_as_slow_as_before():
    """It computes as long as the others; and those that have more are not slow."""
    offer = offer_to(2)
    second = offer.workers[1]
    fewer = plan_on(offer, 2, split=NetworkSplit.by_shares(LARGE, [2, 1]))
    slow = slowness(fewer, offer.cost, [1.0, 1.0])
    assert slow == {second: pytest.approx(2.0, rel=0.1)}
    assert slowness(fewer, offer.cost, [2.0, 1.0]) == {}
    seen = as_slow_as_seen(offer, fewer, slow)
    found = [speed.correction(fewer.grid) for speed in seen.machines.workers]
    assert found == pytest.approx([1.0, slow[second]])
    # Trials find both as fast as each other.
    assert move_that_pays(fewer, seen, 1.0, cost_s=0.0) is None
    assert move_that_pays(fewer, offer, 1.0, cost_s=0.0) is not None


@pytest.mark.parametrize(
    ("shares", "expected"), [([1, 1], {}), ([4, 1], {1: 4.0}), ([1], {})]
)
def test_a_plan_says_which_workers_it_expects_to_be_slow(shares, expected):
    offer = offer_to(2)
    split = NetworkSplit.by_shares(LARGE, shares)
    plan = plan_on(offer, len(shares), split=split)
    expected = {plan.workers[rank]: times for rank, times in expected.items()}
    assert expected_slowness(plan, offer.cost) == pytest.approx(expected, rel=0.1)


def test_a_worker_that_trials_find_fast_is_as_slow_as_it_was_in_training():
    offer = replace(offer_to(3), n_workers=2)
    plan = plan_on(offer, 2, fixed=(2, None))
    assert move_that_pays(plan, offer, 1.0, cost_s=1.0) is None
    assert as_slow_as_seen(offer, plan, {}) == offer
    seen = as_slow_as_seen(offer, plan, {plan.workers[1]: 3.0})
    found = [speed.correction(plan.grid) for speed in seen.machines.workers]
    assert found == pytest.approx([1.0, 3.0, 1.0])
    move = move_that_pays(plan, seen, 1.0, cost_s=1.0)
    assert set(move.plan.workers) == {offer.workers[0], offer.workers[2]}


def test_a_worker_that_is_alone_is_as_slow_as_measured():
    """The others, than which it was slower, may be lost."""
    offer = offer_to(2, slow=(0,))
    plan = plan_on(offer, 1)
    assert as_slow_as_seen(offer, plan, {plan.workers[0]: 3.0}) == offer


def test_a_worker_that_is_slow_in_trials_too_counts_as_slow_once():
    offer = offer_to(2, slow=(1,))
    plan = plan_on(offer, 2)
    before = [speed.correction(plan.grid) for speed in offer.machines.workers]
    for times in (2.0, before[1] / before[0]):
        seen = as_slow_as_seen(offer, plan, {plan.workers[1]: times})
        found = [speed.correction(plan.grid) for speed in seen.machines.workers]
        assert found == pytest.approx(before)


def test_numbers_that_the_user_has_fixed_stay():
    offer = replace(offer_to(4), n_workers=2)
    assert move_that_pays(plan_on(offer, 2), offer, 1.0, cost_s=0.0) is None
    offer = replace(offer_to(4), n_replicas=2)
    plan = plan_training(LARGE, "peers", offer.workers[:2], offer.cost, None, 2)
    move = move_that_pays(plan, offer, 10.0, cost_s=0.0)
    assert (move.plan.n_replicas, len(move.plan.workers)) == (2, 4)


def test_a_fit_stays_where_no_plan_has_room():
    offer = offer_to(2)
    offer = replace(offer, memory=dict.fromkeys(offer.workers, WorkerMemory(1000)))
    assert move_that_pays(plan_on(offer, 1), offer, 1.0, cost_s=0.0) is None


@pytest.mark.parametrize("n_spare", [0, 1])
def test_slow_workers_get_fewer_neurons_or_leave(n_spare):
    offer = offer_to(2 + n_spare, slow=(1,))
    move = move_that_pays(plan_on(offer, 2), offer, 1.0, cost_s=0.0)
    first, slow = offer.workers[:2]
    if n_spare:
        assert slow not in move.plan.workers[:2]
    else:
        assert move.plan.workers[0] == first
        assert move.plan.split != plan_on(offer, 2).split
