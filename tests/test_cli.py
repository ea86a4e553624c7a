"""`dask mlp`, through the command that Dask installs."""

import csv
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner
from distributed import LocalCluster

from skdistmlp import cli

ROOT = Path(__file__).parents[1]


def dask_mlp(*arguments):
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dask", "mlp", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            # Where nobody answers there is nothing to wait for.
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s",
        },
    )


def test_it_measures_prints_and_writes(client, tmp_path):
    files = {kind: tmp_path / f"crossover.{kind}" for kind in ("csv", "json", "png")}
    contact = tmp_path / "scheduler.json"
    contact.write_text(json.dumps({"address": client.scheduler.address}))
    options = [
        *("--scheduler-file", contact, "--n-workers", 2, "--repeats", 1),
        *("--max-width", 16, "--n-features", 4),
        *(part for kind, file in files.items() for part in (f"--{kind}", file)),
    ]
    done = dask_mlp("crossover", *options)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [row["network"] for row in rows] == ["4-(8)", "4-(16)"]
    assert all(float(row["here, ms"]) > 0 < float(row["2 workers, ms"]) for row in rows)
    assert [row["parameters"] for row in rows] == ["130", "250"]
    written = json.loads(files["json"].read_text())
    assert written["crossover"][0]["network"] == "4-(8)"
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert "| 4-(16) " in done.stdout
    assert re.search(r"parameter_threshold=\d+$|were not faster", done.stdout, re.M)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["tcp://127.0.0.1:1"], 1, r"no Dask scheduler answers at .*127\.0\.0\.1:1"),
        (
            ["--png", "plot.txt"],
            2,
            r"plot\.txt: matplotlib draws files that end in .*png",
        ),
        (["--csv", "/proc/rows.csv"], 2, r"/proc/rows\.csv cannot be written"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(arguments, code, said):
    done = dask_mlp("crossover", *arguments)
    assert done.returncode == code
    assert re.search(rf"^Error: .*{said}", done.stderr, re.M), done.stderr
    assert "Traceback" not in done.stderr
    assert "measuring" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tcp://h:1", "--scheduler-file", __file__], r"not both"),
        (["--scheduler-file", __file__], r"is not a file that `dask scheduler"),
        (["--n-workers", "1"], r"1 is not in the range x>=2"),
        (["--png", "/nowhere/at/all.png"], r"there is no folder /nowhere/at"),
        (["--json", ""], r"'\.' is not the name of a file|is a directory"),
    ],
)
def test_options_are_checked_before_anything_is_measured(arguments, said):
    result = CliRunner().invoke(cli.mlp, ["crossover", *arguments])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert re.search(said, result.output), result.output


def test_as_many_workers_are_started_as_are_asked_for(monkeypatch):
    monkeypatch.setattr(cli, "HIDDEN", (2,))
    monkeypatch.setattr("skdistmlp.bench.workloads.TIMED_S", 1e-9)
    options = ["--n-workers", "3", "--repeats", "1", "--max-width", "16"]
    result = CliRunner().invoke(cli.mlp, ["crossover", *options])
    assert result.exit_code == 0, result.output
    assert "3 workers, ms" in result.output


def test_a_cluster_without_workers():
    with LocalCluster(
        n_workers=0, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        result = CliRunner().invoke(
            cli.mlp, ["crossover", cluster.scheduler_address, "--n-workers", "3"]
        )
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert "two or more, but the cluster has 0: start some" in result.output


def test_a_disk_that_is_full_does_not_cost_the_advice(monkeypatch):
    rows = [{"parameters": n, "times faster": n / 200} for n in (100, 400)]
    monkeypatch.setattr(cli, "_measured", lambda *_: (2, rows))
    monkeypatch.setattr(cli, "_cluster", lambda *_: nullcontext())
    result = CliRunner().invoke(cli.mlp, ["crossover", "--csv", "/dev/full"])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert "use parameter_threshold=" in result.output
    assert "Error: [Errno 28]" in result.output


def test_more_workers_than_there_are(client):
    result = CliRunner().invoke(
        cli.mlp, ["crossover", client.scheduler.address, "--n-workers", "9"]
    )
    assert result.exit_code == 1
    assert "n_workers=9 needs 9 workers" in result.output


def test_help_says_what_it_does():
    result = CliRunner().invoke(cli.mlp, ["crossover", "--help"])
    assert result.exit_code == 0
    for part in ("ADDRESS", "parameter_threshold", "--scheduler-file", "--png"):
        assert part in result.output


@pytest.mark.parametrize(
    ("gains", "threshold"),
    [
        ([0.5, 0.9, 0.99], None),
        ([1.5, 2.0, 3.0], 100),
        ([0.5, 2.0, 3.0], 320),
        ([2.0, 0.5, 3.0], 10_000),
    ],
)
def test_the_threshold_to_use(gains, threshold):
    rows = [
        {"parameters": 100 * 10**i, "times faster": gain}
        for i, gain in enumerate(gains)
    ]
    assert cli._threshold(rows) == threshold
    advice = cli._advice(rows, threshold, 4)
    assert (f"parameter_threshold={threshold}" in advice) == (threshold is not None)
