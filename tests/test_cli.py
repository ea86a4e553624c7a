"""`dask mlp`, through the command that Dask installs."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

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
        (["tcp://h:1", "--scheduler-file", __file__], 2, r"not both"),
        (["--scheduler-file", __file__], 2, r"is not a file that `dask scheduler"),
        (["--n-workers", "1"], 2, r"1 is not in the range x>=2"),
        (["--png", "/nowhere/at/all.png"], 2, r"there is no folder /nowhere/at"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(arguments, code, said):
    result = CliRunner(env={"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}).invoke(
        cli.mlp, ["crossover", *arguments]
    )
    assert result.exit_code == code
    assert re.search(said, result.output), result.output
    assert "Traceback" not in result.output


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
