"""Options that name a cluster, and files that are checked first."""

import json

import pytest
from click.testing import CliRunner

from skdistmlp import cli
from skdistmlp.cluster.client import lookup


@pytest.mark.parametrize("address", [5, None])
def test_a_scheduler_file_without_an_address_is_an_error(tmp_path, address):
    scheduler_file = tmp_path / "scheduler.json"
    scheduler_file.write_text(json.dumps({"address": address}))
    result = CliRunner().invoke(
        cli.mlp, ["crossover", "--scheduler-file", str(scheduler_file)]
    )
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert "has no scheduler address: pass a file that" in result.output


@pytest.mark.parametrize("command", ["crossover", "plan"])
def test_every_command_takes_a_cluster_and_its_certificates(command):
    help_text = CliRunner().invoke(cli.mlp, [command, "--help"]).output
    for option in ("--scheduler-file", "--tls-ca-file", "--tls-cert", "--tls-key"):
        assert option in help_text
    mistaken = [command, "tcp://h:1", "--scheduler-file", __file__]
    result = CliRunner().invoke(cli.mlp, mistaken)
    assert result.exit_code == 2
    assert "not both" in result.output


def test_a_cluster_that_does_not_answer_is_an_error(monkeypatch):
    monkeypatch.setattr(lookup, "REFUSED_S", 0.0)
    result = CliRunner().invoke(cli.mlp, ["crossover", "tcp://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:1: " in result.output
    assert "measuring" not in result.output
