"""What workers lack of the rows of a plan, on clusters that are made up."""

from dataclasses import replace

import pytest

from skdistmlp.parallel.rows import COPIES, RowHolding
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.machines import Link
from skdistmlp.planning.plan import Plan, plan_training
from skdistmlp.planning.rates import DASK_BYTE_S, REFERENCE
from skdistmlp.planning.row_fetches import bytes_to_fetch, fetch_s

WORKERS = tuple(f"tcp://{number}:1" for number in range(4))

ONCE = RowHolding("once")

EVENLY = dict.fromkeys(WORKERS, 200)


def plan_of(n_workers: int = 4, n_replicas: int = 1, rows: RowHolding = COPIES) -> Plan:
    """Return a plan on the first workers."""
    cost, workers = StepCost.of_step(100), WORKERS[:n_workers]
    return plan_training(
        (8, 16, 2), "peers", workers, cost, n_replicas=n_replicas, rows=rows
    )


@pytest.mark.parametrize(
    ("plan", "missing"),
    [
        (plan_of(), 600),
        (plan_of(n_replicas=2), 200),
        (plan_of(n_replicas=4), 0),
        (plan_of(rows=ONCE), 0),
        # Rows of workers that take no part.
        (plan_of(2), 600),
        (plan_of(2, n_replicas=2), 200),
        (plan_of(2, rows=ONCE), 200),
        # A score needs all rows on each.
        (replace(plan_of(n_replicas=4), rows=RowHolding("all")), 600),
    ],
    ids=str,
)
def test_workers_lack_what_the_plan_gives_them_and_they_do_not_have(plan, missing):
    assert bytes_to_fetch(plan, 800, EVENLY) == [missing] * plan.n_workers


def test_rows_beyond_the_part_of_a_replica_go_to_others():
    held = {WORKERS[0]: 600, WORKERS[1]: 0, WORKERS[2]: 100, WORKERS[3]: 100}
    # The first replica keeps 400 of its 600, the second gets the rest.
    in_pairs = bytes_to_fetch(plan_of(n_replicas=2), 800, held)
    assert in_pairs == [0, 400, 300, 300]
    assert bytes_to_fetch(plan_of(rows=ONCE), 800, held) == [0, 200, 100, 100]


def test_replicas_lack_rows_in_proportion_to_their_shares():
    plan = plan_of(2, 2, RowHolding(shares=(24, 8)))
    held = dict.fromkeys(WORKERS[:2], 400)
    assert bytes_to_fetch(plan, 800, held) == [200, 0]


def test_workers_that_compute_rows_compute_all_that_they_need():
    for plan in plan_of(), plan_of(n_replicas=2), plan_of(rows=ONCE):
        assert bytes_to_fetch(plan, 800, {}) == [0] * 4
        assert seconds_of(plan, {}, *[1e9] * 4)[0] == 0


def seconds_of(plan: Plan, held: dict[str, int], *rates: float) -> list[float]:
    """Return the seconds of a plan, then those of a byte on each of these links."""
    links = [Link.of_rate(rate, REFERENCE) for rate in rates]
    by_worker = dict(zip(WORKERS, links, strict=False))
    byte_s = [DASK_BYTE_S + 8 / link.bits_per_s for link in links]
    return [fetch_s(plan, 800, held, by_worker), *byte_s]


def test_all_wait_for_the_worker_that_gets_rows_for_the_longest_time():
    seconds, _, slow_s = seconds_of(plan_of(2), {WORKERS[0]: 800}, 1e10, 1e9)
    assert seconds == pytest.approx(800 * slow_s)
    held = {WORKERS[0]: 60, WORKERS[1]: 740}
    seconds, *_ = seconds_of(plan_of(2), held, 1e10, 1e9)
    assert seconds == pytest.approx(740 * slow_s)


def test_a_worker_that_has_all_rows_sends_them_to_each_of_the_others():
    seconds, byte_s, *_ = seconds_of(plan_of(), {WORKERS[0]: 800}, *[1e9] * 4)
    assert seconds == pytest.approx(3 * 800 * byte_s)
    # Also one that takes no part, unless nothing is known of its link.
    held = {WORKERS[3]: 800}
    seconds, *_ = seconds_of(plan_of(3), held, *[1e9] * 4)
    assert seconds == pytest.approx(3 * 800 * byte_s)
    seconds, *_ = seconds_of(plan_of(3), held, *[1e9] * 3)
    assert seconds == pytest.approx(800 * byte_s)
