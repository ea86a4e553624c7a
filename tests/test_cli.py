"""`dask mlp`, through the command that Dask installs."""

import csv
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext

import click
import pytest
from click.testing import CliRunner
from distributed import LocalCluster

from skdistmlp import cli
from tests.cluster.support import wait_until
from tests.terminal import ROOT, running


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
    measured = {"n_workers": 2, "batch_size": 200, "n_features": 4, "repeats": 1}
    assert written.items() >= measured.items()
    advised = re.search(r"use parameter_threshold=(\d+)$", done.stdout, re.M)
    assert written["parameter_threshold"] == (advised and int(advised[1]))
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert "| 4-(16) " in done.stdout
    assert advised or "were not faster" in done.stdout
    table, said = done.stdout.rsplit("|\n", 1)
    assert all(line.startswith("|") for line in table.splitlines())
    assert len(said.splitlines()) == (2 if advised else 1), "stdout is for the answer"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["tcp://127.0.0.1:1"],
            1,
            r"no Dask scheduler answers at tcp://127\.0\.0\.1:1: ",
        ),
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
        (["--json", "a.png", "--png", "./a.png"], r"need a file each"),
    ],
)
def test_options_are_checked_before_anything_is_measured(arguments, said):
    result = CliRunner().invoke(cli.mlp, ["crossover", *arguments])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert re.search(said, result.output), result.output


def test_as_many_workers_are_started_as_are_asked_for(monkeypatch):
    monkeypatch.setattr(cli, "HIDDEN", (2,))
    monkeypatch.setattr("skdistmlp.crossover.workloads.TIMED_S", 1e-9)
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
    rows = [
        {"parameters": n, "times faster": n / 200, "more a fit, ms": 90.0}
        for n in (100, 400)
    ]
    monkeypatch.setattr(cli, "_measured", lambda *_: (2, rows))
    monkeypatch.setattr(cli, "_cluster", lambda *_: nullcontext())
    result = CliRunner().invoke(cli.mlp, ["crossover", "--csv", "/dev/full"])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert "use parameter_threshold=" in result.output
    said = "Error: /dev/full was not written: No space left on device\n"
    assert said in result.output


@pytest.mark.parametrize("address", [5, None])
def test_a_file_without_an_address_starts_nothing(tmp_path, address):
    contact = tmp_path / "scheduler.json"
    contact.write_text(json.dumps({"address": address}))
    result = CliRunner().invoke(
        cli.mlp, ["crossover", "--scheduler-file", str(contact)]
    )
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert "is not a file that `dask scheduler" in result.output


def test_rows_that_do_not_fit_are_an_error(client):
    options = ["--n-features", str(10**12), "--repeats", "1"]
    result = CliRunner().invoke(
        cli.mlp, ["crossover", client.scheduler.address, *options]
    )
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert "Lower --n-features or --batch-size" in result.output


def test_more_workers_than_there_are(client):
    result = CliRunner().invoke(
        cli.mlp, ["crossover", client.scheduler.address, "--n-workers", "9"]
    )
    assert result.exit_code == 1
    assert "--n-workers 9 needs 9 workers" in result.output
    assert "n_workers" not in result.output


def test_help_fits_a_terminal_and_explains_every_option():
    done = dask_mlp("crossover", "--help")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    for part in (
        "$ dask mlp crossover tcp://",
        "parameter_threshold=9800)",
        "takes a minute or two",
    ):
        assert part in done.stdout
    options = [p for p in cli.crossover.params if isinstance(p, click.Option)]
    assert len(options) == 9
    assert all(re.match(r"[A-Z].{25,}\.$", option.help) for option in options)


def test_a_bar_advances_while_it_measures_and_ctrl_c_ends_all_of_it():
    with running("-m", "dask", "mlp", "crossover", "--repeats", "1") as command:
        command.wait_until_it_shows(r"measuring  \[#+-+\] +11%")
        assert len(command.processes()) >= 3
        command.interrupt()
        # The bar was ahead of the table, which is all that goes to stdout.
        assert command.end() == (1, "")
        assert "100%" not in command.shown
        assert command.shown.endswith("\r\n\r\nAborted!\r\n")
        assert "Traceback" not in command.shown
        wait_until(lambda: not command.processes(), "all processes have ended")
