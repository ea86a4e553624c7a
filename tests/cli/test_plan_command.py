"""The command `dask mlp plan`: workers that are there, and workers that are not."""

import json
import re

import pytest
from click.testing import CliRunner

from skdistmlp import cli
from skdistmlp.crossover import plans
from skdistmlp.planning.forecast import Forecast, ForecastRow
from skdistmlp.planning.left_out import LeftOut

SMALL = ["--network", "8-16", "--n-rows", "400", "--batch-size", "50"]


def test_the_workers_of_a_cluster_are_measured(client, tmp_path):
    json_path, plot_path = tmp_path / "plan.json", tmp_path / "plan.svg"
    files = ["--json", json_path, "--plot", plot_path]
    arguments = ["plan", client.scheduler.address, *SMALL, *map(str, files)]
    result = CliRunner().invoke(cli.mlp, arguments)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    table = [line for line in lines if line.startswith("|")]
    # Others are left out, if any of the workers seems slow.
    best, *_ = lines[len(table) :]
    rows = [line.split("|")[1].strip() for line in table[2:]]
    assert rows == ["0", "1", "2", "3"]
    assert re.fullmatch(r"best: (this process|peers on .*)", best)
    written = json.loads(json_path.read_text())
    assert written.items() >= {"batch_size": 50, "n_rows": 400}.items()
    assert {each["n_workers"] for each in written["plans"]} == {0, 1, 2, 3}
    assert written["bits_per_s"] > 0
    assert "<svg" in plot_path.read_text()


def test_workers_that_are_left_out_are_named(client, monkeypatch, tmp_path):
    row = ForecastRow("peers", 2, 1, 0.012, 1.2, 120.0, 5, 7)
    slow = LeftOut("tcp://192.0.2.7:1", "link", 50.0)
    forecast = Forecast((row,), left_out=(slow,))
    monkeypatch.setattr(plans, "forecast_on", lambda *_: forecast)
    path = tmp_path / "plan.json"
    arguments = ["plan", client.scheduler.address, *SMALL, "--json", str(path)]
    result = CliRunner().invoke(cli.mlp, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-2:] == [
        "best: peers on 2 (1 x 2)",
        "tcp://192.0.2.7:1 is left out: its link is 50.0 times as slow as the others",
    ]
    assert json.loads(path.read_text())["left_out"] == [slow._asdict()]


def test_workers_that_are_not_there_need_no_cluster():
    invented = ["--workers", "16", "--bandwidth", "10Gbit"]
    result = CliRunner().invoke(cli.mlp, ["plan", *SMALL, *invented])
    assert result.exit_code == 0, result.output
    *table, best, link = result.output.splitlines()
    assert best.startswith("best: ")
    # Of what is measured there is none, so what is assumed is said.
    assert link.startswith("assumed: links of 10Gbit with a latency of 0.045 ms, ")
    rows = [line.split("|")[1].strip() for line in table[2:]]
    assert rows == [str(number) for number in (*range(9), 16)]


def test_a_latency_can_be_assumed():
    invented = ["--workers", "2", "--bandwidth", "10Gbit", "--latency", "0.2ms"]
    result = CliRunner().invoke(cli.mlp, ["plan", *SMALL, *invented])
    assert result.exit_code == 0, result.output
    assert "with a latency of 0.2 ms" in result.output


def test_rows_that_fit_nowhere_can_be_planned_for():
    """A row for each number of workers, of which each could hold its part."""
    rows = ["--n-rows", str(10**12), "--workers", "2", "--bandwidth", "1G"]
    result = CliRunner().invoke(cli.mlp, ["plan", *SMALL, *rows])
    assert result.exit_code == 0, result.output
    *table, note = result.output.splitlines()
    assert len(table) == 7
    assert "With --memory, only plans with room count." in note
    limit = ["--memory", "1PB"]
    limited = CliRunner().invoke(cli.mlp, ["plan", *SMALL, *rows, *limit])
    assert limited.exit_code == 0, limited.output
    assert "note:" not in limited.output


def test_workers_that_are_too_small_are_refused():
    invented = ["--workers", "2", "--bandwidth", "1G", "--memory", "1kB"]
    result = CliRunner().invoke(cli.mlp, ["plan", *SMALL, *invented])
    assert result.exit_code == 1
    assert "have room for this network and its rows" in result.output


def test_a_mini_batch_without_room_says_so():
    arguments = ["--n-rows", str(10**14), "--batch-size", str(10**14)]
    invented = ["--workers", "2", "--bandwidth", "1G"]
    result = CliRunner().invoke(cli.mlp, ["plan", *arguments, *invented])
    assert result.exit_code == 1
    assert "Use fewer features or a lower --batch-size." in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "4"], "pass --workers and --bandwidth together"),
        (["--bandwidth", "1G"], "pass --workers and --bandwidth together"),
        (
            ["tcp://h:1", "--workers", "4", "--bandwidth", "1G"],
            "pass them without a cluster",
        ),
        (["--workers", "4", "--bandwidth", "fast"], "the bandwidth is 'fast'"),
        (["--memory", "1GB"], "pass --memory with --workers and --bandwidth"),
        (["--latency", "1ms"], "pass --latency with --workers and --bandwidth"),
        (
            ["--workers", "4", "--bandwidth", "1G", "--latency", "1"],
            "the latency is '1', expected a time with its unit",
        ),
        (
            ["--workers", "4", "--bandwidth", "1G", "--memory", "much"],
            "the memory is 'much', expected a size",
        ),
        (["--network", "784"], "the network is '784'; expected the number"),
        (["--plot", "a.txt"], "its extension must be one of"),
        (["--workers", "4096", "--bandwidth", "1G"], "is not in the range 1<=x<=1024"),
    ],
)
def test_options_are_checked_before_anything_is_measured(arguments, message):
    result = CliRunner().invoke(cli.mlp, ["plan", *arguments])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    # click wraps long messages.
    assert message in " ".join(result.output.split())


def test_help_fits_in_a_terminal():
    result = CliRunner().invoke(cli.mlp, ["plan", "--help"], terminal_width=80)
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    assert "$ dask mlp plan --workers 16 --bandwidth 10Gbit" in result.output
