import json
import math
import sys
from dataclasses import replace

import pytest

from skdistmlp.bench import __main__ as command
from skdistmlp.bench import futures, local, optimizer
from skdistmlp.bench.timing import interleaved, median_ratio, table
from skdistmlp.bench.workloads import Workload


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
    ("gains", "crossing"), [([0.5, 2.0], 4.0), ([1.5, 2.0], math.nan)]
)
def test_the_crossover_is_interpolated_on_logarithms(gains, crossing):
    rows = [
        {"network": "n", "GFLOP/step": work, "times faster": gain}
        for work, gain in zip([2.0, 8.0], gains, strict=True)
    ]
    found = futures.crossover(rows, n_tasks=4)
    assert found["two workers win from, GFLOP/step"] == pytest.approx(
        crossing, nan_ok=True
    )
    assert found["saved GFLOP per chained task there"] == pytest.approx(
        crossing / 8, nan_ok=True
    )


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


def test_an_unknown_part_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "walrus"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "unknown part walrus" in capsys.readouterr().err


def test_futures_are_measured_on_two_workers(client, monkeypatch):
    tiny = Workload(4, (3,), n_steps=1, n_epochs=2, batch_size=5)
    monkeypatch.setattr(futures, "TINY", [tiny])
    monkeypatch.setattr(futures, "PREDICTED", [tiny])
    (overhead,) = futures.overhead(client, repeats=1)
    assert overhead["chained tasks"] == 4
    (step,) = futures.against_one_thread(client, [tiny], repeats=1)
    assert step["2 workers, ms"] > step["1 shard, 1 thread, ms"]
    (prediction,) = futures.predicting(client, repeats=1)
    # 31 parameters once and five rows of four features twice, of four bytes.
    assert prediction["MB sent"] == pytest.approx((15 + 40 + 40) * 4 / 1e6)
