"""The benchmarks, on tiny networks: tables, charts and the command."""

import json
import math
import os
import re
import sys
import threading
from contextlib import nullcontext
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import (
    elastic,
    features,
    futures,
    local,
    optimizer,
    overlap,
    parity,
    peak,
    peers,
    recovery,
)
from benchmarks.timing import time_in_turns, with_progress
from benchmarks.workloads import SolverWorkload
from skdistmlp import (
    DistributedMLPClassifier,
    DistributedMLPRegressor,
    ParityReport,
    ParityRow,
)
from skdistmlp.cluster.peers import driver
from skdistmlp.cluster.peers.copies import StateCopies
from skdistmlp.crossover import timing
from skdistmlp.crossover.timing import FitTime
from skdistmlp.crossover.workloads import Workload
from skdistmlp.nn import compiled
from skdistmlp.nn.update_rules import AdamW


def test_candidates_alternate_and_the_first_turn_is_discarded():
    calls = []
    seconds = time_in_turns(
        {name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2
    )
    assert "".join(calls) == "ababab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("speedups", "crossover", "saved"),
    [([0.5, 1.5], 4.0, 0.5), ([1.5, 2.0], 2.0, 0.25), ([0.5, 0.9], None, None)],
)
def test_the_crossover_of_futures_is_in_work_per_step(speedups, crossover, saved):
    rows = [
        {"network": "n", "GFLOP/step": gflop, "speedup": speedup}
        for gflop, speedup in zip([2.0, 8.0], speedups, strict=True)
    ]
    assert futures.find_crossover(rows, n_tasks=4) == {
        "network": "n",
        "crossover, GFLOP/step": crossover,
        "saved GFLOP per chained task": saved,
    }


@pytest.fixture
def tiny_trainings(monkeypatch):
    def trainings():
        clf = DistributedMLPClassifier((4,), random_state=0)
        X = np.random.default_rng(0).standard_normal((30, 5))
        return [parity.Training("tiny", clf, X, np.arange(30) % 3, (1, 2))]

    monkeypatch.setattr(parity, "trainings", trainings)


COLUMNS = {"training", "network", "dtype", "epochs", *parity.COLUMNS}


def test_blas_threads_are_compared_per_dtype_and_epochs(tiny_trainings, monkeypatch):
    limits = []
    monkeypatch.setattr(
        parity,
        "threadpool_limits",
        lambda limit, **_: nullcontext(limits.append(limit)),
    )
    rows = list(parity.compare_blas_threads())
    assert limits == [1, 2] * 4
    assert all(set(row) == COLUMNS for row in rows)
    assert [(row["dtype"], row["epochs"]) for row in rows] == [
        ("float64", 1),
        ("float64", 2),
        ("float32", 1),
        ("float32", 2),
    ]


def test_plans_are_compared_per_dtype_and_epochs(tiny_trainings, monkeypatch):
    calls = []

    def check(estimator, X, y, **options):
        calls.append((X.dtype, options))
        rows = [
            ParityRow("local", 1, "scikit-learn", 1.0, 5.0, 2.0, math.inf),
            ParityRow("peers", 1, "scikit-learn", 4.0, 3.0, 1.0, math.inf),
        ]
        return ParityReport(tuple(rows), str(X.dtype), options["n_epochs"], 0)

    monkeypatch.setattr(parity, "single_threaded_workers", lambda _: nullcontext("c"))
    monkeypatch.setattr(parity, "check_parity", check)
    rows = list(parity.compare_plans())
    assert [(str(dtype), options["n_epochs"]) for dtype, options in calls] == [
        ("float64", 1),
        ("float64", 2),
        ("float32", 1),
        ("float32", 2),
    ]
    assert all(options["engines"] == ["local", "peers"] for _, options in calls)
    assert {options["client"] for _, options in calls} == {"c"}
    assert all(set(row) == COLUMNS | {"plans"} for row in rows)
    # The largest of each column.
    assert [rows[0][name] for name in ("plans", *parity.COLUMNS)] == [2, 4, 5, 2]


def test_the_trainings_to_compare_are_of_both_kinds():
    assert {type(case.estimator) for case in parity.trainings()} == {
        DistributedMLPClassifier,
        DistributedMLPRegressor,
    }
    assert parity.trainings()[0].shape == "64-(100,)"


def test_the_command_prints_tables_and_writes_json_and_plots(
    tmp_path, capsys, monkeypatch
):
    tiny = SolverWorkload(4, (3,), n_steps=2, n_epochs=2, batch_size=5)
    sparse = SolverWorkload(
        4,
        (3,),
        n_steps=2,
        n_epochs=2,
        batch_size=5,
        density=0.5,
        solver="lbfgs",
        dtype="float64",
    )
    monkeypatch.setattr(local, "WORKLOADS", {tiny: 1.5, sparse: 1.0})
    monkeypatch.setattr(local, "PREDICTIONS", [tiny])
    monkeypatch.setattr(optimizer, "N_PARAMETERS", 1000)
    monkeypatch.setattr(optimizer, "OF_LBFGS", [Workload(4, (3,), 2, 1, 10)])
    path, plot = tmp_path / "b.json", tmp_path / "b.png"
    options = ["--repeats", "1", "--json", str(path), "--plot", str(plot)]
    monkeypatch.setattr(
        sys, "argv", ["benchmarks", "local", "predict", "optimizer", *options]
    )
    command.main()
    printed, progress = capsys.readouterr()
    assert "local: 4-(3), lbfgs, float64, 50% of X stored, 2 of 2\n" in progress
    assert " of 2\n" not in printed
    assert "| 4-(3)   | adam, float32                   |" in printed
    assert "| 4-(3)   | lbfgs, float64, 50% of X stored |" in printed
    results = json.loads(path.read_text())
    assert results["local"][0]["speedup"] > 0
    assert results["predict"][0]["rows"] == 10
    assert len(results["optimizer"]) == 14
    (of_lbfgs,) = results["optimizer, L-BFGS"]
    assert of_lbfgs["parameters"] == 55
    assert of_lbfgs["between two, ms"] > 0
    for loading in results["optimizer, loading numba"]:
        assert loading["seconds"] > 0
        # What planning counts for it.
        assert loading["MB"] < 1.3 * compiled.LOADED_BYTES / 1e6
    assert results["machine"]["blas"]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_every_form_of_overlap_is_timed(monkeypatch):
    monkeypatch.setattr(overlap, "CASES", [overlap.Case((3, 4, 5, 2), 6)])
    (row,) = overlap.compare_forms(repeats=2)
    assert (row["network"], row["batch_size"]) == ("3-4-5-2", 6)
    assert row["in one piece, speedup"] == 1
    assert all(row[f"{form}, ms"] > 0 for form in overlap.FORMS)


@pytest.mark.slow
def test_a_growing_cluster_is_timed(monkeypatch):
    """The fit ends before it looks for another plan."""
    monkeypatch.setattr(elastic, "WORKLOAD", Workload(6, (5,), 3, 4, batch_size=10))
    monkeypatch.setattr(elastic, "GROWS_AFTER_S", 0.0)
    (row,) = elastic.compare_growing_clusters(repeats=1)
    assert (row["network"], row["epochs"]) == ("6-(5)", 4)
    assert row["one worker, s"] > 0
    assert row["moved after, s"] == ""
    assert row["largest difference of a weight"] == 0


def test_the_cluster_that_grows_is_adaptive(monkeypatch):
    limits, grown = [], threading.Event()

    def adapt(**given):
        limits.append(given)
        if given["minimum"] == 2:
            grown.set()

    cluster = SimpleNamespace(adapt=adapt)
    client = SimpleNamespace(run=lambda *_: None, cluster=cluster)
    started = nullcontext(client)
    monkeypatch.setattr(elastic, "single_threaded_workers", lambda _: started)
    monkeypatch.setattr(elastic, "fit_uninterrupted", lambda *_: grown.wait(10))
    monkeypatch.setattr(elastic, "WORKLOAD", Workload(6, (5,), 3, 4, batch_size=10))
    monkeypatch.setattr(elastic, "GROWS_AFTER_S", 0.0)
    elastic._fit(1, grows=True)
    assert limits == [{"minimum": 1, "maximum": 2}, {"minimum": 2, "maximum": 2}]
    elastic._fit(1, grows=False)
    assert len(limits) == 2


@pytest.fixture
def copied_often(monkeypatch):
    """Have a round end after every epoch, and copy the state after each."""
    monkeypatch.setattr(driver, "ROUND_S", 0.0)
    monkeypatch.setattr(StateCopies, "is_due", True)


@pytest.mark.slow
def test_fits_with_and_without_copies_are_compared(monkeypatch, copied_often):
    monkeypatch.setattr(recovery, "PAIRED", Workload(6, (5,), 3, 4, batch_size=10))
    row = recovery.measure_copies(n_pairs=2)
    assert (row["network"], row["pairs"]) == ("6-(5)", 2)
    # None after the last epoch.
    assert row["copies per fit"] == 3
    assert row["ratio"] > 0
    assert row["CPU ratio"] > 0


@pytest.mark.slow
def test_a_comparison_without_copies_fails(monkeypatch):
    """The fits are too short for copies."""
    monkeypatch.setattr(recovery, "PAIRED", Workload(6, (5,), 3, 4, batch_size=10))
    with pytest.raises(AssertionError, match="a fit took no copies"):
        recovery.measure_copies(n_pairs=1)


@pytest.mark.slow
def test_recoveries_from_kills_are_timed(monkeypatch, copied_often):
    monkeypatch.setattr(recovery, "KILLED", Workload(6, (5,), 3, 150, batch_size=10))
    row = recovery.measure_kills(n_kills=2)
    assert (row["network"], row["from copies"]) == ("6-(5)", "2 of 2")
    assert 0 < row["goes on: median, s"] <= row["goes on: worst, s"]
    # Copies are taken after each epoch.
    assert row["goes on: median, s"] <= row["made up: median, s"]
    assert row["made up: median, s"] <= row["made up: worst, s"]


def test_what_was_lost_is_made_up_when_the_last_epoch_has_ended_again():
    course = recovery._Course([0.0, 20.0], [(1, 1.0), (2, 2.0), (3, 3.0)])
    # From copies of the last epoch, or of none, before the first has ended.
    assert course.made_up_at(3.5, resumed_from=3) == 20
    assert course.made_up_at(0.5, resumed_from=0) == 20
    course.epochs += [(2, 21.0), (3, 22.0), (4, 23.0)]
    assert course.made_up_at(3.5, resumed_from=1) == 22
    # The message of the third had not arrived.
    assert course.made_up_at(2.5, resumed_from=1) == 21


def test_only_the_recoveries_that_are_asked_for_are_measured(
    monkeypatch, tmp_path, capsys
):
    path = tmp_path / "b.json"
    monkeypatch.setattr(recovery, "measure_copies", pytest.fail)
    monkeypatch.setattr(recovery, "measure_kills", lambda number: {"kills": number})
    options = ["--pairs", "0", "--kills", "3", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "recovery", *options])
    command.main()
    assert "## recovery: after a kill" in capsys.readouterr().out
    results = json.loads(path.read_text())
    assert set(results) == {"machine", "recovery: after a kill"}
    assert results["recovery: after a kill"] == [{"kills": 3}]


def test_a_recovery_that_changes_the_answer_fails(monkeypatch):
    nobody = nullcontext(SimpleNamespace(wait_for_workers=lambda _: None))
    monkeypatch.setattr(recovery, "single_threaded_workers", lambda *_: nobody)
    monkeypatch.setattr(recovery, "KILLED", Workload(6, (5,), 3, 1, batch_size=10))
    fits = iter(
        SimpleNamespace(
            coefs_=[np.full(3, value)],
            intercepts_=[],
            recoveries_=(SimpleNamespace(n_iter=1),),
        )
        for value in (1.0, 2.0)
    )
    monkeypatch.setattr(recovery, "_estimator", lambda *_, **__: next(fits))
    monkeypatch.setattr(recovery, "fit_uninterrupted", lambda *_: None)
    killer = nullcontext()
    killer.killed_at = 0.0
    monkeypatch.setattr(recovery, "_Killer", lambda *_, **__: killer)
    with pytest.raises(AssertionError, match="the fit has other parameters"):
        recovery.measure_kills(n_kills=1)


@pytest.mark.parametrize(
    ("density", "dtype"), [(None, "float64"), (0.5, "float32"), (0.5, "float64")]
)
def test_workloads_have_their_dtype_and_density(density, dtype):
    workload = SolverWorkload(
        40, (3,), n_steps=2, n_epochs=1, batch_size=5, density=density, dtype=dtype
    )
    X, y = workload.data()
    assert X.dtype == dtype
    assert (X.shape, y.shape) == ((10, 40), (10,))
    assert (X.nnz if density else X.size) == (200 if density else 400)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("walrus", "unknown benchmark walrus"),
        ("local --repeats 0", "--repeats and --threads must be at least 1"),
        ("recovery --pairs -1", "--pairs is -1, and must be at least 0"),
        ("recovery --pairs 0 --kills 0", "nothing would be measured"),
        ("local --json /nowhere/at/all.json", "there is no folder /nowhere/at"),
        ("local --plot plot.txt", "cannot draw plot.txt: its extension must be one of"),
    ],
)
def test_invalid_options_are_refused_before_measuring(
    arguments, message, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "compare_training", pytest.fail)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_futures_are_measured_on_two_workers(client, monkeypatch):
    tiny = Workload(4, (3,), n_steps=1, n_epochs=2, batch_size=5)
    monkeypatch.setattr(futures, "TINY", [tiny])
    monkeypatch.setattr(futures, "PREDICTIONS", [tiny])
    (overhead,) = futures.measure_overhead(client, repeats=1)
    assert overhead["chained tasks"] == 4
    (step,) = futures.compare_with_one_thread(client, [tiny], repeats=1)
    assert step["2 workers, ms"] > step["1 thread, ms"]
    blocks = []

    def predict_by_rows(client, workers, function, X, rows_per_block, **others):
        blocks.append((len(workers), len(X), rows_per_block))
        return predict(client, workers, function, X, rows_per_block, **others)

    predict = futures.predict_by_rows
    monkeypatch.setattr(futures, "predict_by_rows", predict_by_rows)
    by_rows, by_neurons = futures.compare_predictions(client, repeats=1)
    # Both workers have some of the rows.
    assert {*blocks} == {(2, 5, 3)}
    assert (by_rows["split by"], by_neurons["split by"]) == ("rows", "neurons")
    # 55 parameters and five rows of four features, four bytes each: by rows the
    # parameters are sent twice, by neurons the rows.
    assert by_rows["MB sent"] == pytest.approx((2 * 55 + 20) * 4 / 1e6)
    # Both send what the outputs of five rows are summed from.
    sent = 55 + 2 * 20 + 2 * 5 * 10
    assert by_neurons["MB sent"] == pytest.approx(sent * 4 / 1e6)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_torch_is_measured_in_every_mode():
    tiny = Workload(4, (6, 5), n_steps=2, n_epochs=2, batch_size=4)
    steps_ms = peers._torch_ms(tiny, os.environ)
    assert set(steps_ms) == {
        "torch, one process",
        "torch, data-parallel",
        "torch, tensor-parallel",
    }
    assert all(ms > 0 for ms in steps_ms.values())


@pytest.mark.slow
def test_peers_are_compared_with_every_competitor(monkeypatch):
    tiny = Workload(4, (3, 3), n_steps=2, n_epochs=2, batch_size=4)
    ways = ["one process", "data-parallel", "tensor-parallel"]
    monkeypatch.setattr(
        peers, "_torch_ms", lambda *_: {f"torch, {way}": 1e6 for way in ways}
    )
    monkeypatch.setattr(peers, "WORKLOADS", {tiny: peers.Targets(1.6, 1.2, 1.5)})
    monkeypatch.setattr(peers, "GROWING", {200: [tiny, tiny]})
    monkeypatch.setattr(
        peers, "compare_worker_settings", lambda repeats: iter([{"repeats": repeats}])
    )
    monkeypatch.setattr(peak, "MEASURED_S", 0.01)
    # Every fit is carried out, however short it is.
    monkeypatch.setattr(timing, "MIN_DIFFERENCE_S", 1e-9)
    time_fit = peers.time_fit
    monkeypatch.setattr(
        peers, "time_fit", lambda *args: time_fit(*args) and FitTime(0.002, 0.05)
    )
    results = peers.run(repeats=1, torch=True)
    (row,) = results["peers against torch"]
    assert row["speedup over one process"] == pytest.approx(1e6 / 2)
    (row,) = results["peers scaling"]
    assert 0 < row["share of the limit"] < 1
    assert row["GFLOP/s"] > 0.1
    (row,) = results["peers against scikit-learn"]
    assert row["target"] == 1.6
    assert row["network"] == "4-(3, 3)"
    assert len(results["peers growing, batches of 200"]) == 2
    (row,) = results["peers crossover"]
    assert row["batch_size"] == 4


@pytest.mark.slow
def test_every_feature_is_compared_with_the_defaults(monkeypatch):
    tiny = Workload(4, (3, 3), n_steps=2, n_epochs=1, batch_size=5)
    monkeypatch.setattr(features, "WORKLOAD", tiny)
    trained = []
    train = features._train
    monkeypatch.setattr(
        features, "_train", lambda ops: trained.append(ops) or train(ops)
    )
    rows = list(features.compare_locally(n_threads=1, repeats=1))
    assert [row["feature"] for row in rows] == ["defaults", *features.FEATURES]
    assert [row["limit"] for row in rows][:4] == ["", 1.15, 1.3, ""]
    assert rows[0]["times the defaults"] == 1
    assert all(row["ms/step"] > 0 for row in rows)
    # In turns, after one that does not count.
    assert trained[len(rows) :][: len(rows)] == trained[: len(rows)]
    everything = trained[len(rows) - 1]
    optimizer = everything.state.optimizer
    assert type(optimizer.rule) is AdamW
    assert optimizer.average is not None
    assert optimizer.n_steps == 5 * features.STEPS_PER_TURN
    assert everything._network.max_grad_norm == 0.01
    assert everything._network.has_dropout


@pytest.mark.slow
def test_features_are_compared_on_peers(monkeypatch):
    tiny = Workload(4, (3, 3), n_steps=2, n_epochs=1, batch_size=5)
    monkeypatch.setattr(features, "WORKLOAD", tiny)
    monkeypatch.setattr(timing, "MIN_DIFFERENCE_S", 1e-9)
    time_fit = features.time_fit
    monkeypatch.setattr(
        features, "time_fit", lambda *args: time_fit(*args) and FitTime(0.002, 0.05)
    )
    rows = list(features.compare_on_peers(repeats=1))
    assert [row["feature"] for row in rows] == ["defaults", *features.FEATURES]
    assert all(row["times the defaults"] == 1 for row in rows)


def test_progress_goes_to_stderr_before_each_measurement(capsys):
    said = []
    for number in with_progress("squares", [2, 3], "{}x".format):
        out, err = capsys.readouterr()
        assert not out
        said.append((number, err))
    assert [number for number, _ in said] == [2, 3]
    for (number, line), position in zip(said, "12", strict=True):
        assert re.fullmatch(rf" *\d+ s  squares: {number}x, {position} of 2\n", line)
