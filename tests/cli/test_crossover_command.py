"""The command `dask mlp crossover`, as Dask runs it."""

import csv
import json
import re
from contextlib import nullcontext

import click
import dask
import pytest
from click.testing import CliRunner
from distributed import LocalCluster

from skdistmlp import cli
from skdistmlp.cli import connection, crossover_command
from tests.certificates import write_certificates
from tests.cli.support import dask_mlp
from tests.cluster.support import wait_until
from tests.crossover.measurements import measurements
from tests.marks import only_quick
from tests.terminal import running


def test_results_are_printed_and_written(client, tmp_path):
    csv_path, json_path = tmp_path / "crossover.csv", tmp_path / "crossover.json"
    plot_path = tmp_path / "crossover.svg"
    scheduler_file = tmp_path / "scheduler.json"
    scheduler_file.write_text(json.dumps({"address": client.scheduler.address}))
    options = [
        *("--scheduler-file", scheduler_file, "--n-workers", 2, "--repeats", 1),
        *("--max-width", 16, "--n-features", 4, "--n-layers", 2),
        *("--csv", csv_path, "--json", json_path, "--plot", plot_path),
    ]
    done = dask_mlp("crossover", *options)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(csv_path.read_text().splitlines()))
    assert [row["network"] for row in rows] == ["4-(8, 8)", "4-(16, 16)"]
    for row in rows:
        assert float(row["baseline_step_ms"]) > 0 < float(row["distributed_step_ms"])
    assert [row["n_parameters"] for row in rows] == ["202", "522"]
    written = json.loads(json_path.read_text())
    assert written["measurements"][0]["network"] == "4-(8, 8)"
    options = {"n_workers": 2, "batch_size": 200, "n_features": 4, "n_layers": 2}
    assert written.items() >= {**options, "repeats": 1}.items()
    threshold = re.search(r"use parameter_threshold=(\d+)$", done.stdout, re.M)
    assert written["parameter_threshold"] == (threshold and int(threshold[1]))
    assert "<svg" in plot_path.read_text()
    assert "| 4-(16, 16) " in done.stdout
    assert threshold or re.search("are not faster|are impossible", done.stdout)
    table, advice = done.stdout.rsplit("|\n", 1)
    assert all(line.startswith("|") for line in table.splitlines())
    n_lines = len(advice.splitlines())
    assert n_lines == (3 if threshold else 2), "stdout is for the answer"
    assert re.search(r"expected these speed-ups with errors of \d+% \(median\)", advice)
    assert all(float(row["expected_speedup"]) > 0 for row in rows)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    only_quick(
        1,
        cases=[
            (
                ["tcp://127.0.0.1:1"],
                1,
                r"no Dask scheduler answers at tcp://127\.0\.0\.1:1: ",
            ),
            (
                ["--plot", "plot.txt"],
                2,
                r"cannot draw plot\.txt: its extension must be one of .*png",
            ),
            (["--csv", "/proc/rows.csv"], 2, r"cannot write /proc/rows\.csv"),
        ],
    ),
)
def test_mistakes_are_reported_without_a_traceback(arguments, code, message):
    done = dask_mlp("crossover", *arguments)
    assert done.returncode == code
    assert re.search(rf"^Error: .*{message}", done.stderr, re.M), done.stderr
    assert "Traceback" not in done.stderr
    assert "measuring" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tcp://h:1", "--scheduler-file", __file__], r"not both"),
        (["--scheduler-file", __file__], r"has no scheduler address: pass a file"),
        (["--n-workers", "1"], r"1 is not in the range x>=2"),
        (["--plot", "/nowhere/at/all.png"], r"there is no folder /nowhere/at"),
        (["--json", ""], r"'\.' is not the name of a file|is a directory"),
        (["--json", "a.png", "--plot", "./a.png"], r"must name different files"),
        (["--tls-cert", __file__], r"the --tls options need the ADDRESS of a cluster"),
        (["tls://h:1", "--tls-cert", __file__], r"pass both --tls-ca-file and --tls-"),
        (["tls://h:1", "--tls-key", "/nowhere"], r"'/nowhere' does not exist"),
        (
            ["tls://h:1", "--tls-ca-file", __file__, "--tls-cert", __file__],
            r"cannot load the certificates of the --tls options: ",
        ),
    ],
)
def test_options_are_checked_before_anything_is_measured(arguments, message):
    result = CliRunner().invoke(cli.mlp, ["crossover", *arguments])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    # click wraps long messages.
    assert re.search(message, " ".join(result.output.split())), result.output


@pytest.mark.slow
def test_a_cluster_with_tls_is_reached_by_its_certificates(tmp_path, monkeypatch):
    monkeypatch.setattr(crossover_command, "HIDDEN_WIDTHS", (2,))
    monkeypatch.setattr("skdistmlp.crossover.timing.MIN_DIFFERENCE_S", 1e-9)
    security = write_certificates(tmp_path)
    certificates = [
        *("--tls-ca-file", security.tls_ca_file),
        *("--tls-cert", security.tls_client_cert),
        *("--tls-key", security.tls_client_key),
    ]
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        protocol="tls://",
        security=security,
    ) as cluster:
        arguments = ["crossover", cluster.scheduler_address, "--repeats", "1"]
        result = CliRunner().invoke(cli.mlp, [*arguments, *certificates])
        refused = CliRunner().invoke(cli.mlp, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"2 workers(, but| are (not )?faster)", result.output)
    assert dask.config.get("distributed.comm.tls.ca-file") is None
    assert refused.exit_code == 1
    assert "no Dask scheduler answers at tls://" in refused.output


@pytest.mark.slow
def test_n_workers_sets_the_number_of_local_workers(monkeypatch):
    monkeypatch.setattr(crossover_command, "HIDDEN_WIDTHS", (2,))
    monkeypatch.setattr("skdistmlp.crossover.timing.MIN_DIFFERENCE_S", 1e-9)
    options = ["--n-workers", "3", "--repeats", "1", "--max-width", "16"]
    result = CliRunner().invoke(cli.mlp, ["crossover", *options])
    assert result.exit_code == 0, result.output
    assert re.search(r"3 workers(, but| are (not )?faster)", result.output)


def test_a_cluster_without_workers_is_an_error():
    with LocalCluster(
        n_workers=0, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        result = CliRunner().invoke(
            cli.mlp, ["crossover", cluster.scheduler_address, "--n-workers", "3"]
        )
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert "need at least 2 workers, the cluster has 0: start more" in result.output


def test_a_full_disk_does_not_suppress_the_advice(monkeypatch):
    measured = measurements([0.5, 2.0])
    monkeypatch.setattr(crossover_command, "_measure", lambda *_: (2, 3.0, measured))
    monkeypatch.setattr(connection, "_cluster", lambda *_: nullcontext())
    result = CliRunner().invoke(cli.mlp, ["crossover", "--csv", "/dev/full"])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert "use parameter_threshold=" in result.output
    message = "Error: could not write /dev/full: No space left on device\n"
    assert message in result.output


def test_rows_that_do_not_fit_in_memory_are_an_error(client):
    options = ["--n-features", str(10**12), "--repeats", "1"]
    result = CliRunner().invoke(
        cli.mlp, ["crossover", client.scheduler.address, *options]
    )
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert "Use fewer features or a lower --batch-size." in result.output


def test_more_workers_than_the_cluster_has_are_an_error(client):
    result = CliRunner().invoke(
        cli.mlp, ["crossover", client.scheduler.address, "--n-workers", "9"]
    )
    assert result.exit_code == 1
    assert "--n-workers 9 needs 9 workers" in result.output
    assert "n_workers" not in result.output


def test_help_fits_in_a_terminal_and_explains_every_option():
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
    assert len(options) == 13
    assert all(re.match(r"[A-Z].{25,}[.\]]$", option.help) for option in options)


@pytest.mark.slow
def test_a_progress_bar_advances_and_ctrl_c_ends_every_process():
    with running("-m", "dask", "mlp", "crossover", "--repeats", "1") as command:
        command.wait_until_it_shows(r"measuring  \[#+-+\] +11%")
        assert len(command.processes()) >= 3
        command.interrupt()
        # Only the table goes to stdout, and it comes after the bar.
        assert command.end() == (1, "")
        assert "100%" not in command.shown
        assert command.shown.endswith("\r\n\r\nAborted!\r\n")
        assert "Traceback" not in command.shown
        wait_until(lambda: not command.processes(), "all processes have ended")
