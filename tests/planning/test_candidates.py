"""Which of the candidates is best, and what is said of them."""

import re
from dataclasses import replace

import pytest

from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.candidates import (
    MARGIN,
    FitLength,
    chosen_plan,
    forecast_of,
    ranked,
)
from skdistmlp.planning.left_out import LeftOut
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.offer import PEERS_FIT_S
from skdistmlp.planning.step_time import StepTime
from skdistmlp.planning.traffic import traffic
from skdistmlp.training.progress import LbfgsProgress
from tests.planning.test_offer import GBIT, candidate_of, offer_of
from tests.training.jobs import MAX_EPOCHS, dataset_of, job_of, lbfgs_job


def test_peers_are_taken_before_tasks_and_both_are_in_the_forecast():
    offer = offer_of(bits_per_s=10 * GBIT, cluster_engines=("peers", "futures"))
    plan = chosen_plan(offer.candidates(), offer)
    assert plan.engine == "peers"
    names = [row.name for row in plan.forecast.rows]
    assert "futures on 2 (1 x 2)" in names
    assert names.index("futures on 2 (1 x 2)") > names.index("peers on 2 (1 x 2)")


@pytest.mark.parametrize("slower", [0.0, 0.09])
def test_fewer_machines_win_unless_more_are_clearly_faster(slower):
    two, one = offer_of().candidates()[:2]
    two, one = sorted((two, one), key=lambda c: -len(c.plan.workers))
    two = replace(two, step=StepTime(1.0), fixed_s=0.0)
    nearly = replace(one, step=StepTime(1.0 + slower), fixed_s=0.0)
    clearly = replace(one, step=StepTime(1.0 + MARGIN + 0.01), fixed_s=0.0)
    assert ranked([two, nearly]) == [nearly, two]
    assert ranked([two, clearly]) == [two, clearly]


def test_a_fit_that_is_resumed_has_the_epochs_that_are_left():
    job, dataset = job_of("adam"), dataset_of("adam")
    whole = FitLength.of(job, dataset)
    assert whole.n_epochs == MAX_EPOCHS

    def left(n_done):
        progress = replace(job.initial.progress, n_iter=n_done)
        initial = replace(job.initial, progress=progress)
        return FitLength.of(replace(job, initial=initial), dataset)

    assert left(2) == FitLength(whole.n_steps, MAX_EPOCHS - 2)
    assert left(MAX_EPOCHS).n_epochs == 1


def test_lbfgs_that_is_resumed_has_the_iterations_that_are_left():
    job, dataset = lbfgs_job(), dataset_of("adam")
    whole = FitLength.of(job, dataset)

    def left(n_done):
        initial = replace(job.initial, progress=LbfgsProgress(n_done, 0.5))
        return FitLength.of(replace(job, initial=initial), dataset)

    assert left(2) == FitLength(whole.n_steps, whole.n_epochs - 2)
    assert left(whole.n_epochs).n_epochs == 1


@pytest.mark.parametrize("far", [(1,), (0, 2)])
def test_each_grid_is_there_once_though_links_differ(far):
    """On the workers with which it is fastest."""
    slow = tuple({0, 1, 2, 3} - {*far})
    offer = offer_of(n_workers=4, bits_per_s=10 * GBIT, slow=slow, far=far)
    everything = list(offer._peers())
    plans = [(c.plan.engine, c.plan.n_workers, c.plan.n_replicas) for c in everything]
    assert len({*plans}) < len(plans)
    candidates = offer.candidates()
    rows = {row.name: row for row in forecast_of(candidates, offer).rows}
    assert len(rows) == len(candidates)
    for each in forecast_of(everything, offer).rows:
        assert rows[each.name].fit_s <= each.fit_s
    plan = chosen_plan(candidates, offer)
    assert f"{candidates[1].fit_s / candidates[0].fit_s:.2f}" in plan.reason


def test_a_chosen_plan_says_why_and_what_else_there_was():
    offer = offer_of(bits_per_s=10 * GBIT)
    candidates = offer.candidates()
    plan = chosen_plan(candidates, offer)
    assert plan.reason.startswith("2 workers should train 1.")
    assert plan.forecast is not None
    assert [row.n_workers for row in plan.forecast.rows] == [
        len(c.plan.workers) for c in candidates
    ]
    assert plan.forecast.bits_per_s == pytest.approx(10 * GBIT, rel=0.6)
    text = str(plan)
    assert "next best: " in text
    assert " per step, " in text
    slow = offer_of(bits_per_s=1e7)
    local = chosen_plan(slow.candidates(), slow)
    assert local.engine == "local"
    assert "is expected to take" in local.reason


def test_a_forecast_has_the_link_of_the_workers_that_train():
    offer = offer_of(n_workers=4, bits_per_s=10 * GBIT, far=(1,))
    fast, slow = offer.machines.links[:2]
    candidates = offer.candidates()
    assert forecast_of(candidates, offer).bits_per_s == fast.bits_per_s
    every = [c for c in candidates if len(c.plan.workers) in (0, 4)]
    assert forecast_of(every, offer).bits_per_s == slow.bits_per_s
    alone = [c for c in candidates if len(c.plan.workers) < 2]
    assert forecast_of(alone, offer).bits_per_s is None


def test_a_forecast_has_what_each_plan_sends_stores_and_takes_besides_its_steps():
    sizes = {"data_bytes": 10**9, "feature_bytes": 10**9}
    limit = {"tcp://worker0:1": WorkerMemory(3 * 10**8)}
    offer = offer_of(n_workers=3, sizes=sizes, memory=limit)
    candidates = replace(offer, n_workers=3, n_replicas=1, min_workers=3).candidates()
    rows = {r.n_workers: r for r in forecast_of(candidates, offer).rows}
    (on_three,) = [c for c in candidates if c.plan.n_workers == 3]
    _, n_messages = traffic(on_three.plan.split, offer.cost, 1, 0, on_three.plan.rows)
    # Features, activations, deltas and logits, to two others each.
    assert rows[3].messages_sent == n_messages == 8
    assert rows[3].bytes_on_disk == on_three.plan.features_held > 10**9 / 3
    assert rows[3].fixed_s == on_three.fixed_s > PEERS_FIT_S
    assert (rows[0].messages_sent, rows[0].bytes_on_disk, rows[0].fixed_s) == (0, 0, 0)


def test_a_chosen_plan_says_which_workers_it_leaves_out():
    offer = offer_of(n_workers=4, bits_per_s=10 * GBIT, slow=(1,))
    plan = chosen_plan(offer.candidates(), offer)
    assert plan.reason.startswith("3 workers should train ")
    assert plan.reason.endswith(
        "; tcp://worker1:1 is left out, 3.0 times as slow as the others"
    )
    assert plan.forecast.left_out == (LeftOut(offer.workers[1], "worker", 3.0),)
    # Once.
    assert str(plan).count("left out") == 1
    offer = offer_of(n_workers=8, bits_per_s=10 * GBIT, slow=(1, 2, 4, 5, 6))
    assert chosen_plan(offer.candidates(), offer).reason.endswith(
        "; tcp://worker1:1, tcp://worker2:1, tcp://worker4:1, …, tcp://worker6:1 are "
        "left out, 3.0 times as slow as the others"
    )
    offer = offer_of(n_workers=4, bits_per_s=10 * GBIT, far=(1,))
    assert chosen_plan(offer.candidates(), offer).reason.endswith(
        "; tcp://worker1:1 is left out: its link is 53.4 times as slow as the others"
    )
    offer = offer_of(n_workers=8, bits_per_s=10 * GBIT, slow=(1,), far=(1, 2, 4))
    assert chosen_plan(offer.candidates(), offer).reason.endswith(
        "; tcp://worker1:1 is left out, 3.0 times as slow as the others"
        "; tcp://worker1:1, tcp://worker2:1, tcp://worker4:1 are left out: their links "
        "are 53.4 times as slow as the others"
    )
    # Nor does this process take any.
    here = replace(offer, length=FitLength(1, 1))
    assert "left out" not in chosen_plan(here.candidates(), here).reason
    equal = offer_of(n_workers=4, bits_per_s=10 * GBIT)
    assert "left out" not in chosen_plan(equal.candidates(), equal).reason


@pytest.mark.parametrize(
    ("units", "asked", "sizes", "grids", "why"),
    [
        (
            (100, 5, 10),
            {"n_workers": 7},
            {"in_ordered_blocks": True},
            {Grid(5)},
            "5 of 7 workers train: no more of them make a grid in which each has "
            "neurons and rows, since the widest hidden layer has 5 neurons and rows in "
            "blocks that keep their order allow no replicas",
        ),
        (
            (100, 2, 10),
            {"n_workers": 7},
            {},
            {Grid(2, 3), Grid(1, 6)},
            "6 of 7 workers train: no more of them make a grid in which each has "
            "neurons and rows, since the widest hidden layer has 2 neurons and a step "
            "has 6 rows",
        ),
        (
            (100, 2, 10),
            {"n_workers": 6, "n_replicas": 2},
            {},
            {Grid(2, 2)},
            "4 of 6 workers train: no more of them make a grid of 2 replicas in which "
            "each has neurons and rows, since the widest hidden layer has 2 neurons "
            "and a step has 6 rows",
        ),
        (
            (100, 10),
            {"n_workers": 7},
            {},
            {Grid(1, 6)},
            "6 of 7 workers train: no more of them make a grid in which each has "
            "neurons and rows, since the network has no hidden layer and a step has 6 "
            "rows",
        ),
    ],
)
def test_as_many_workers_train_as_make_a_grid(units, asked, sizes, grids, why):
    offer = offer_of(units, n_workers=7, batch_size=6, sizes=sizes, local=False)
    offer = replace(offer, cluster_engines=("peers", "futures"), **asked)
    candidates = offer.candidates()
    assert {c.plan.grid for c in candidates if c.plan.engine == "peers"} == grids
    plan = chosen_plan(candidates, offer)
    assert plan.engine == "peers"
    assert plan.reason.endswith(f"; {why}")
    # As many as were asked for need no excuse.
    every = replace(offer, n_workers=plan.n_workers)
    assert why not in chosen_plan(every.candidates(), every).reason


def test_a_local_plan_that_is_not_the_fastest_says_why_it_is_taken():
    offer = offer_of()
    two = replace(candidate_of(offer, 2), step=StepTime(1.0), fixed_s=0.0)
    here = replace(candidate_of(offer, 0), step=StepTime(1.05), fixed_s=0.0)
    plan = chosen_plan(ranked([two, here]), offer)
    assert plan.engine == "local"
    assert plan.reason == (
        "peers on 2 (1 x 2) is expected to take 0.95 times as long, but more machines "
        "are taken only if they are more than 10% faster"
    )
    slower = replace(two, step=StepTime(2.0))
    assert "are taken only" not in chosen_plan([here, slower], offer).reason


def test_a_plan_on_fewer_workers_that_is_not_the_fastest_says_so():
    offer = offer_of(n_workers=3, local=False)
    three = replace(candidate_of(offer, 3), step=StepTime(1.0), fixed_s=0.0)
    two = replace(candidate_of(offer, 2), step=StepTime(1.05), fixed_s=0.0)
    plan = chosen_plan(ranked([three, two]), offer)
    assert plan.n_workers == 2
    assert plan.reason == (
        "peers on 3 (1 x 3) is expected to take 0.95 times as long, but more machines "
        "are taken only if they are more than 10% faster"
    )
    slower = replace(three, step=StepTime(1.2))
    plan = chosen_plan(ranked([slower, two]), offer)
    assert plan.reason == "the fastest plan that is expected to fit into memory"


def test_a_plan_on_fewer_workers_that_is_not_the_fastest_says_so_beside_this_process():
    offer = offer_of(n_workers=4)
    fit_s = {0: 300.0, 2: 105.0, 4: 100.0}
    candidates = [
        replace(candidate_of(offer, n), step=StepTime(s / 1e4), fixed_s=0.0)
        for n, s in fit_s.items()
    ]
    plan = chosen_plan(ranked(candidates), offer)
    assert plan.n_workers == 2
    assert re.fullmatch(
        r"2 workers should train 2\.86 times as fast as this process; peers on 4 "
        r"\(. x .\) is expected to take 0\.95 times as long, but more machines are "
        r"taken only if they are more than 10% faster",
        plan.reason,
    )
    # The fastest one needs no excuse.
    plan = chosen_plan(ranked(candidates[:2]), offer)
    assert plan.reason == "2 workers should train 2.86 times as fast as this process"


def test_seconds_add_up():
    candidate = candidate_of(offer_of(), 2)
    assert candidate.epoch_s == pytest.approx(100 * candidate.step.seconds)
    assert candidate.fit_s == candidate.fixed_s + 100 * candidate.epoch_s
