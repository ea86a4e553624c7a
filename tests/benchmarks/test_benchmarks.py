import json
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from sklearn.neural_network import MLPClassifier

from benchmarks import __main__ as command
from benchmarks import futures, limits, local, optimizer, peers
from skdistmlp import DistributedMLPClassifier
from skdistmlp.crossover import workloads
from skdistmlp.crossover.timing import interleaved, median_ratio, table
from skdistmlp.crossover.workloads import Workload
from skdistmlp.exceptions import SkdistmlpError


def test_candidates_take_turns_and_the_first_turn_does_not_count():
    calls = []
    seconds = interleaved(
        {name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2
    )
    assert "".join(calls) == "ababab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_ratios_pair_neighbours():
    assert median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == 3.0


def test_a_table_has_a_line_a_row():
    lines = table([{"network": "64-(100)", "x": 1.23456}, {"network": "b", "x": 2}])
    assert lines.splitlines() == [
        "| network  | x    |",
        "| -------- | ---- |",
        "| 64-(100) | 1.23 |",
        "| b        | 2    |",
    ]


@pytest.mark.parametrize(
    ("gains", "at", "saved"),
    [([0.5, 1.5], 4.0, 0.5), ([1.5, 2.0], 2.0, 0.25), ([0.5, 0.9], None, None)],
)
def test_the_work_from_which_on_two_workers_win(gains, at, saved):
    rows = [
        {"network": "n", "GFLOP/step": work, "times faster": gain}
        for work, gain in zip([2.0, 8.0], gains, strict=True)
    ]
    assert futures.where_two_win(rows, n_tasks=4) == {
        "network": "n",
        "two workers win from, GFLOP/step": at,
        "saved GFLOP per chained task there": saved,
    }


def test_the_command_prints_tables_and_writes_json_and_png(
    tmp_path, capsys, monkeypatch
):
    tiny = Workload(4, (3,), n_steps=2, n_epochs=2, batch_size=5)
    sparse = replace(tiny, density=0.5, solver="lbfgs", dtype="float64")
    monkeypatch.setattr(local, "WORKLOADS", {tiny: 1.5, sparse: 1.0})
    monkeypatch.setattr(local, "PREDICTED", [tiny])
    monkeypatch.setattr(optimizer, "N_PARAMETERS", 1000)
    path, picture = tmp_path / "b.json", tmp_path / "b.png"
    options = ["--repeats", "1", "--json", str(path), "--png", str(picture)]
    monkeypatch.setattr(
        sys, "argv", ["bench", "local", "predict", "optimizer", *options]
    )
    command.main()
    printed = capsys.readouterr().out
    assert "| 4-(3)   | adam, float32                   |" in printed
    assert "| 4-(3)   | lbfgs, float64, 50% of X stored |" in printed
    results = json.loads(path.read_text())
    assert results["local"][0]["times faster"] > 0
    assert results["predict"][0]["rows"] == 10
    assert len(results["optimizer"]) == 14
    assert results["machine"]["blas"]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("estimator", [DistributedMLPClassifier, MLPClassifier])
def test_an_interrupted_fit_is_no_measurement(estimator, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    # The first step of either.
    monkeypatch.setattr(MLPClassifier, "_backprop", interrupt)
    monkeypatch.setattr("skdistmlp.training.loop.run_epoch", interrupt)
    tiny = Workload(4, (3,), n_steps=2, n_epochs=2, batch_size=5)
    with pytest.raises(KeyboardInterrupt):
        workloads.fit(estimator(**tiny.parameters()), *tiny.data())


@pytest.fixture
def timed_fits(monkeypatch):
    """Fits of 1 s and a millisecond a step; gives the clock, and the epochs of each."""
    epochs = []
    clock = SimpleNamespace(now=0.0, step_s=1e-3, perf_counter=lambda: clock.now)

    def fit(estimator, X, y):
        epochs.append(estimator["max_iter"])
        clock.now += 1 + estimator["max_iter"] * len(X) / 5 * clock.step_s

    monkeypatch.setattr(workloads, "time", clock)
    monkeypatch.setattr(workloads, "fit", fit)
    return clock, epochs


def test_fits_are_made_long_enough_to_be_subtracted(timed_fits):
    _, epochs = timed_fits
    tiny = Workload(4, (3,), n_steps=10, n_epochs=2, batch_size=5)
    step_s, rest_s = workloads.step_and_rest(tiny, dict)
    assert (step_s, rest_s) == (pytest.approx(1e-3), pytest.approx(1))
    assert epochs == [1, 3, 1, 31]


@pytest.mark.parametrize("step_s", [0, -1e-6])
def test_no_step_takes_less_than_no_time(timed_fits, step_s):
    clock, epochs = timed_fits
    clock.step_s = step_s
    tiny = Workload(4, (3,), n_steps=10, n_epochs=2, batch_size=5)
    with pytest.raises(SkdistmlpError, match=r"epochs of 4-\(3\) is lost in the noise"):
        workloads.step_and_rest(tiny, dict)
    assert len(epochs) == 2 * workloads.MOST_TURNS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("walrus", "unknown part walrus"),
        ("local --json /nowhere/at/all.json", "there is no folder /nowhere/at"),
        ("local --png plot.txt", "plot.txt: matplotlib draws files that end in"),
    ],
)
def test_mistakes_are_refused_before_anything_is_measured(
    arguments, said, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "against_sklearn", pytest.fail)
    monkeypatch.setattr(sys, "argv", ["bench", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_futures_are_measured_on_two_workers(client, monkeypatch):
    tiny = Workload(4, (3,), n_steps=1, n_epochs=2, batch_size=5)
    monkeypatch.setattr(futures, "TINY", [tiny])
    monkeypatch.setattr(futures, "PREDICTED", [tiny])
    (overhead,) = futures.overhead(client, repeats=1)
    assert overhead["chained tasks"] == 4
    (step,) = futures.against_one_thread(client, [tiny], repeats=1)
    assert step["2 workers, ms"] > step["1 shard, 1 thread, ms"]
    by_rows, by_neurons = futures.predicting(client, repeats=1)
    assert (by_rows["split by"], by_neurons["split by"]) == ("rows", "neurons")
    # 55 parameters and five rows of four features, of four bytes: the ones or the
    # others twice.
    assert by_rows["MB sent"] == pytest.approx((2 * 55 + 20) * 4 / 1e6)
    assert by_neurons["MB sent"] == pytest.approx((55 + 2 * 20) * 4 / 1e6)


@pytest.mark.skipif(find_spec("torch") is None, reason="is an extra of the benchmark")
def test_torch_is_run_in_every_way():
    tiny = Workload(4, (6, 5), n_steps=2, n_epochs=2, batch_size=4)
    steps_ms = peers._torch_ms(tiny, os.environ)
    assert set(steps_ms) == {
        "torch, one process",
        "torch, data-parallel",
        "torch, tensor-parallel",
    }
    assert all(ms > 0 for ms in steps_ms.values())


def test_peers_are_measured_against_all_others(monkeypatch):
    """Rows of every table, from a run whose networks are tiny."""
    tiny = Workload(4, (3, 3), n_steps=2, n_epochs=2, batch_size=4)
    ways = ["one process", "data-parallel", "tensor-parallel"]
    monkeypatch.setattr(
        peers, "_torch_ms", lambda *_: {f"torch, {way}": 1e6 for way in ways}
    )
    monkeypatch.setattr(peers, "WORKLOADS", {tiny: (1.6, 1.2, 1.5)})
    monkeypatch.setattr(peers, "GROWING", {200: [tiny, tiny]})
    monkeypatch.setattr(peers, "chores", lambda repeats: iter([{"repeats": repeats}]))
    monkeypatch.setattr(limits, "MEASURED_S", 0.01)
    # Every fit is carried out, as short as it is.
    monkeypatch.setattr(workloads, "TIMED_S", 1e-9)
    measure = peers.step_and_rest
    monkeypatch.setattr(
        peers, "step_and_rest", lambda *args: measure(*args) and (0.002, 0.05)
    )
    results = peers.run(repeats=1, torch=True)
    (row,) = results["peers against torch"]
    assert row["times faster than one"] == pytest.approx(1e6 / 2)
    (row,) = results["peers scaling"]
    assert 0 < row["share of the limit"] < 1
    assert row["GFLOP/s"] > 0.1
    (row,) = results["peers against scikit-learn"]
    assert row["wanted"] == 1.6
    assert row["network"] == "4-(3, 3)"
    assert len(results["peers growing, batches of 200"]) == 2
    (row,) = results["peers crossover"]
    assert row["batch"] == 4
