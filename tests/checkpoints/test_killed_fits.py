"""`kill -9` of a process that writes checkpoints, at random moments."""

import subprocess
import sys

import pytest

from tests.marks import only_quick


def kill_fits(n_kills, *address):
    """Kill fits; return how many were writing, and how many left a file."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.checkpoints.killed_fits", str(n_kills), *address],
        capture_output=True,
        text=True,
        check=False,
        timeout=570,
    )
    assert done.returncode == 0, done.stderr
    n_done, n_writing, n_resumed = map(int, done.stdout.split())
    assert n_done == n_kills
    return n_writing, n_resumed


@pytest.mark.parametrize("n_kills", only_quick(0, cases=[6, 200]))
def test_a_fit_killed_at_any_moment_is_resumed_to_the_same_bits(n_kills):
    n_writing, n_resumed = kill_fits(n_kills)
    # The moments that matter: in the middle of writing, and with a file to resume from.
    assert n_writing >= n_kills // 10
    assert n_resumed >= n_kills // 3


@pytest.mark.parametrize("n_kills", only_quick(0, cases=[2, 40]))
def test_a_client_killed_at_any_moment_of_a_fit_on_workers_is_resumed(client, n_kills):
    # Too much of a fit's time goes to its workers for many kills to meet a write.
    _, n_resumed = kill_fits(n_kills, client.scheduler.address)
    assert n_resumed >= n_kills // 10
