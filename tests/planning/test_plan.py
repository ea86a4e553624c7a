import dataclasses
import pickle
from dataclasses import replace

import dask
import numpy as np
import pytest
from IPython.lib.pretty import pretty

from skdistmlp.parallel.local_ops import LocalOps
from skdistmlp.parallel.rows import RowHolding, RowRange
from skdistmlp.parallel.shard import split_state
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.copies import bytes_of_copies, bytes_of_copies_here
from skdistmlp.planning.cost import StepCost, bytes_held_by_tasks, chained_tasks, flop
from skdistmlp.planning.plan import (
    local_plan,
    plan_training,
    reason_to_stay_local,
)
from skdistmlp.planning.recovery import Recovery
from skdistmlp.training.step import training_step
from skdistmlp.wire.packet import HEADER_BYTES
from tests.parallel.ops_contract import make_problem
from tests.wire.test_communicator import connected, run

UNITS = (784, 4096, 512, 10)
N_PARAMETERS = 784 * 4096 + 4096 * 512 + 512 * 10 + 4096 + 512 + 10
WORKERS = ["tcp://a:1", "tcp://b:2"]


def flop_by_hand(n_rows, kind, nnz_per_row=784):
    """Return two operations per multiplication, for every product."""
    forward = [nnz_per_row * 4096, 4096 * 512, 512 * 10]
    products = list(forward)
    if kind != "prediction":
        products += forward  # the gradients
        products += forward[1:]  # the deltas of all layers but the first
    return 2 * n_rows * sum(products)


# Forward through three layers; then the outputs, or backward through two layers and
# the update.
N_TASKS = {"step": 6, "prediction": 4}


CONSTRUCTORS = {
    "step": StepCost.of_step,
    "evaluation": StepCost.of_evaluation,
    "prediction": StepCost.of_prediction,
}


def cost_of(kind, n_rows, **options):
    return CONSTRUCTORS[kind](n_rows, **{"itemsize": 4} | options)


@pytest.mark.parametrize(
    ("engine", "threshold", "reason"),
    [
        ("local", 0, "engine='local' was asked for"),
        ("local", None, "engine='local' was asked for"),
        ("auto", None, None),
        ("futures", None, None),
        ("peers", None, None),
        ("auto", N_PARAMETERS, None),
        ("auto", 0, None),
        (
            "auto",
            N_PARAMETERS + 1,
            "5,318,154 parameters are fewer than the threshold of 5,318,155 "
            "(parameter_threshold)",
        ),
        ("futures", N_PARAMETERS, None),
        (
            "futures",
            N_PARAMETERS + 1,
            "5,318,154 parameters are fewer than the threshold of 5,318,155 "
            "(parameter_threshold)",
        ),
    ],
)
def test_reason_to_stay_local(engine, threshold, reason):
    assert reason_to_stay_local(UNITS, engine, threshold) == reason


@pytest.mark.parametrize(
    ("engine", "configured", "reason"),
    [
        ("auto", None, "7,510 parameters are fewer than the threshold of 50,000"),
        ("auto", 7511, "7,510 parameters are fewer than the threshold of 7,511"),
        ("auto", 7510, None),
        ("auto", 0, None),
        ("futures", 10**9, None),
        ("peers", 10**9, None),
    ],
)
def test_without_a_threshold_auto_reads_the_setting(engine, configured, reason):
    changed = (
        {} if configured is None else {"skdistmlp.parameter-threshold": configured}
    )
    with dask.config.set(changed):
        found = reason_to_stay_local((64, 100, 10), engine, None)
    assert found == (reason and f"{reason} (setting skdistmlp.parameter-threshold)")


@pytest.mark.parametrize("kind", N_TASKS)
def test_operations_and_chained_tasks_are_counted(kind):
    split = NetworkSplit.even(UNITS, 2)
    assert flop(split, cost_of(kind, 100)) == flop_by_hand(100, kind)
    assert chained_tasks(split, cost_of(kind, 100)) == N_TASKS[kind]
    sparse = cost_of(kind, 100, nnz_per_row=49)
    assert flop(split, sparse) == flop_by_hand(100, kind, nnz_per_row=49)
    assert chained_tasks(split, sparse) == N_TASKS[kind]


@pytest.mark.parametrize("workers", [WORKERS, WORKERS[:1]], ids=len)
@pytest.mark.parametrize("kind", ["step", "evaluation"])
@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ("auto", "5,318,154 parameters reach the threshold, and there are workers"),
        ("peers", "engine='peers' was asked for"),
    ],
)
def test_training_is_planned_for_peers(workers, kind, engine, reason):
    plan = plan_training(UNITS, engine, workers, cost_of(kind, 1))
    assert (plan.engine, plan.workers) == ("peers", tuple(workers))
    assert plan.reason == reason


def test_plans_of_peers_state_bytes_held_and_exchanged():
    cost = StepCost.of_step(10, itemsize=4, data_bytes=1000)
    plan = plan_training((6, 5, 4, 3), "peers", WORKERS, cost)
    # Layers 6 x 5, 5 x 4 and 4 x 3: shard 0 has two neurons of the first, two of
    # the second, and the last intercept.
    parameters = 6 * 2 + 5 * 2 + 2 * 3 + 2 + 2 + 3
    # Features; own values and deltas; gathered and scattered ones; logits.
    buffers = 10 * (6 + 2 * (2 + 2 + 3) + 4 * 5 + 2 * 3)
    assert plan.bytes_held[0] == 4 * (4 * parameters + buffers) + 1000
    # Buffers may have room for more rows than a step has.
    roomy = plan_training((6, 5, 4, 3), "peers", WORKERS, replace(cost, buffer_rows=20))
    assert roomy.bytes_held[0] - plan.bytes_held[0] == 4 * buffers
    # "lbfgs": three arrays of all 74 parameters, and SciPy's vectors on shard 0.
    lbfgs = plan_training(
        (6, 5, 4, 3), "peers", WORKERS, replace(cost, moves_parameters=True)
    )
    assert lbfgs.bytes_held[0] - plan.bytes_held[0] == 4 * 3 * 74 + 8 * 27 * 74
    assert lbfgs.bytes_held[1] - plan.bytes_held[1] == 4 * 3 * 74
    # Five values forward and five deltas back go to one other shard; logits both ways.
    assert plan.bytes_exchanged == 4 * 10 * (2 * 5 + 2 * 3)
    assert "a step exchanges 640 bytes" in str(plan)


@pytest.mark.parametrize("n_rows", [1, 10**6])
@pytest.mark.parametrize("workers", [WORKERS, WORKERS[:1]], ids=len)
def test_engine_futures_is_used_whatever_the_cost(n_rows, workers):
    plan = plan_training(UNITS, "futures", workers, StepCost.of_step(n_rows))
    assert plan.engine == "futures"
    assert plan.workers == tuple(workers)
    assert plan.reason == "engine='futures' was asked for"


def test_workers_hold_neurons_in_proportion_to_their_threads():
    plan = plan_training(
        (5, 8, 4, 3), "peers", WORKERS[:2], StepCost.of_step(1), [3, 1]
    )
    assert [[len(part) for part in layer] for layer in plan.split.ranges] == [
        [6, 2],
        [3, 1],
    ]


def test_workers_without_neurons_are_left_out():
    plan = plan_training((5, 2, 3), "futures", ["a", "b", "c"], StepCost.of_step(1))
    assert (plan.n_shards, plan.workers) == (2, ("a", "b"))


def test_a_narrow_layer_does_not_limit_the_split_of_wide_layers():
    workers = [f"tcp://w:{i}" for i in range(4)]
    plan = plan_training((8, 40, 2, 20, 3), "futures", workers, StepCost.of_step(1))
    assert plan.workers == tuple(workers)
    sizes = [[len(held) for held in ranges] for ranges in plan.split.ranges]
    assert sizes[0] == [10] * 4
    assert sorted(sizes[1]) == [0, 0, 1, 1]
    assert sizes[2] == [5] * 4


def test_a_local_plan_gives_its_reason():
    assert str(local_plan([5, 2, 3], "there is no cluster")) == (
        "local: there is no cluster\nnetwork 5-2-3, 21 parameters, 1 shard"
    )


def test_a_plan_lists_the_neurons_of_each_worker():
    plan = plan_training((5, 5, 1, 3), "futures", WORKERS, StepCost.of_step(1))
    held = plan.bytes_held
    assert str(plan) == (
        "futures: engine='futures' was asked for\n"
        "network 5-5-1-3, 42 parameters, 2 shards\n"
        "a step exchanges 168 bytes\n"
        f"shard 0 on tcp://a:1: {held[0]:,} bytes, layer 0: neurons 0-1, "
        "layer 1: no neurons, "
        "layer 2 (output): no inputs\n"
        f"shard 1 on tcp://b:2: {held[1]:,} bytes, layer 0: neurons 2-4, "
        "layer 1: neurons 0-0, "
        "layer 2 (output): inputs 0-0"
    )


def test_a_plan_without_hidden_layers_uses_one_worker():
    plan = plan_training((5, 3), "futures", WORKERS, StepCost.of_step(1))
    assert str(plan).splitlines()[1:] == [
        "network 5-3, 18 parameters, 1 shard",
        f"shard 0 on tcp://a:1: {plan.bytes_held[0]:,} bytes, the whole network",
    ]


@pytest.mark.parametrize(
    "plan",
    [
        local_plan([5, 2, 3], "because"),
        plan_training([5, 4, 3], "futures", WORKERS, StepCost.of_step(1)),
        dataclasses.replace(
            plan_training(
                [5, 4, 3],
                "peers",
                WORKERS,
                StepCost.of_step(1, feature_bytes=80, data_bytes=90),
                rows=RowHolding("once", on_disk=True),
            ),
            row_ranges=(RowRange(0, 2, 0, 1), RowRange(2, 3)),
        ),
    ],
    ids=["local", "futures", "peers"],
)
def test_a_plan_is_a_value(plan):
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.engine = "auto"
    woken = pickle.loads(pickle.dumps(plan))
    assert woken == plan
    assert hash(woken) == hash(plan)
    assert str(woken) == str(plan)
    assert woken != dataclasses.replace(plan, reason="another")


def test_a_plan_of_a_version_that_knew_one_form_of_rows_had_copies():
    plan = plan_training([5, 4, 3], "peers", WORKERS, StepCost.of_step(1))
    state = plan.__getstate__()
    for name in ("rows", "row_ranges", "row_costs", "features_held"):
        del state[name]
    old = object.__new__(type(plan))
    old.__setstate__(state)
    assert old == dataclasses.replace(plan, row_costs=None)
    assert str(old)


def test_recoveries_of_a_later_version_are_read():
    plan = plan_training([5, 4, 3], "peers", WORKERS, StepCost.of_step(1))
    lost, workers = ("tcp://worker:1",), tuple(WORKERS)
    recovery = Recovery(lost, "it was killed", 1.0, 2.0, 3, workers, 1, same_bits=True)
    plan = dataclasses.replace(plan, recoveries=(recovery,))
    state = plan.__getstate__()
    later = state | {"recoveries": [(*each, "more") for each in state["recoveries"]]}
    woken = object.__new__(type(plan))
    woken.__setstate__(later)
    assert woken == plan


class CountingSocket:
    """A socket that counts what is sent through it."""

    def __init__(self, connected):
        self._socket = connected
        self.n_bytes = 0

    def __getattr__(self, name):
        return getattr(self._socket, name)

    def sendmsg(self, views):
        n_bytes = self._socket.sendmsg(views)
        self.n_bytes += n_bytes
        return n_bytes


@pytest.mark.parametrize(
    ("n_shards", "n_replicas"), [(2, 1), (3, 1), (1, 2), (1, 3), (2, 2), (3, 2)]
)
@pytest.mark.parametrize(
    ("units", "n_exchanges"),
    [((7, 9, 4), 1), ((7, 9, 5, 4), 3), ((7, 2, 5, 6, 1), 5)],
    ids=str,
)
@pytest.mark.parametrize("form", ["copies", "once"])
def test_a_step_sends_the_planned_number_of_bytes(
    units, n_exchanges, n_shards, n_replicas, form
):
    """With one hidden layer shards exchange only the logits, and rows held once."""
    n_rows = 20
    cost = StepCost.of_step(n_rows, itemsize=4)
    workers = [f"tcp://w:{i}" for i in range(n_shards * n_replicas)]
    plan = plan_training(
        units, "peers", workers, cost, n_replicas=n_replicas, rows=RowHolding(form)
    )
    problem = make_problem(plan.split, dtype=np.float32, n_rows=n_rows)
    starts = split_state(plan.split, problem.start(), n_replicas)
    datasets = problem.dataset.parts(plan.grid, RowHolding(form))
    communicators = connected(plan.grid)
    sockets = []
    for communicator in communicators:
        for link in communicator._connections.links.values():
            link.socket = CountingSocket(link.socket)
            link.send = link.socket.sendmsg
            sockets.append(link.socket)

    def step(communicator):
        shard = LocalOps(
            problem.network,
            problem.split,
            starts[communicator.rank],
            datasets[communicator.rank],
            communicator,
            n_rows,
        )
        training_step(shard, np.arange(n_rows), 0.01)

    run(communicators, step)
    n_exchanges += form == "once"
    n_packets = n_exchanges * n_shards * (n_shards - 1) * n_replicas
    n_packets += 2 * n_replicas * (n_replicas - 1) * n_shards
    sent = sum(s.n_bytes for s in sockets)
    assert sent - n_packets * HEADER_BYTES == plan.bytes_exchanged > 0
    if n_exchanges == n_replicas == 1:
        logits = n_rows * units[-1] * 4
        assert plan.bytes_exchanged == n_shards * (n_shards - 1) * logits


def test_a_notebook_shows_a_plan_as_print_does():
    plan = local_plan(UNITS, "engine='local' was asked for")
    assert pretty(plan) == str(plan)
    assert pretty([plan]).strip("[]") == str(plan)


@pytest.fixture
def recovers():
    """Have fits recover, as they do by default."""
    with dask.config.set({"skdistmlp.max-recoveries": 3}):
        yield


@pytest.mark.parametrize("n_replicas", [1, 2])
@pytest.mark.usefixtures("recovers")
def test_a_plan_of_a_fit_that_recovers_counts_copies(n_replicas):
    cost = StepCost.of_step(20)
    plan = plan_training(UNITS, "peers", WORKERS, cost, n_replicas=n_replicas)
    copies = bytes_of_copies(plan.split, cost, n_replicas)
    assert plan.bytes_of_copies == copies
    with dask.config.set({"skdistmlp.max-recoveries": 0}):
        without = plan_training(UNITS, "peers", WORKERS, cost, n_replicas=n_replicas)
    assert plan.bytes_needed == without.bytes_held == without.bytes_needed
    assert plan.bytes_held == tuple(
        map(sum, zip(without.bytes_held, copies, strict=True))
    )
    said = "copies of the state, from which the fit recovers: up to "
    assert f"{said}{max(copies):,} bytes per worker\n" in str(plan)
    assert said not in str(without)
    assert plan.without_copies("why") == replace(without, copies_missing="why")


@pytest.mark.usefixtures("recovers")
def test_nothing_is_copied_on_one_worker_or_in_no_time():
    cost = StepCost.of_step(20)
    alone = plan_training(UNITS, "peers", WORKERS[:1], cost)
    with dask.config.set({"skdistmlp.copies.max-share": 0}):
        plan = plan_training(UNITS, "peers", WORKERS, cost)
    for each in (alone, plan):
        assert each.bytes_of_copies == ()
        assert each.bytes_needed == each.bytes_held
        assert "copies of the state" not in str(each)


@pytest.mark.usefixtures("recovers")
def test_copies_of_a_fit_by_tasks_are_in_this_process():
    cost = StepCost.of_step(20)
    plan = plan_training(UNITS, "futures", WORKERS, cost)
    assert plan.bytes_of_copies == ()
    assert plan.copies_here == bytes_of_copies_here(plan.split, cost)
    said = "copies of the state, from which the fit recovers: up to "
    assert f"{said}{plan.copies_here:,} bytes in this process\n" in str(plan)
    assert bytes_held_by_tasks(plan.split.layout(0), cost) == plan.bytes_held[0]
