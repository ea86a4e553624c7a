"""`kill -9` of a process that writes checkpoints: in the middle of writing, mostly."""

import subprocess
import sys

import pytest

from tests.checkpoints.killed_fits import RANDOM_EVERY
from tests.marks import only_quick


def kill_fits(n_kills, *address):
    """Kill fits; return how many left an unfinished file, and how many a checkpoint."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.checkpoints.killed_fits", str(n_kills), *address],
        capture_output=True,
        text=True,
        check=False,
        timeout=570,
    )
    assert done.returncode == 0, done.stderr
    n_done, n_writing, n_unfinished, n_resumed = map(int, done.stdout.split())
    # The others were killed at any moment.
    assert (n_done, n_writing) == (n_kills, n_kills - n_kills // RANDOM_EVERY)
    return n_unfinished, n_resumed


@pytest.mark.parametrize("n_kills", only_quick(0, cases=[6, 200]))
def test_a_fit_killed_while_it_writes_is_resumed_to_the_same_bits(n_kills):
    n_unfinished, n_resumed = kill_fits(n_kills)
    # The others died before the first write, or after the rename of one.
    assert n_unfinished >= n_kills // 3
    assert n_resumed >= n_kills // 3


@pytest.mark.slow
@pytest.mark.parametrize("n_kills", only_quick(0, cases=[1, 40]))
def test_a_client_killed_while_it_writes_the_state_of_workers_is_resumed(
    client, n_kills
):
    n_unfinished, n_resumed = kill_fits(n_kills, client.scheduler.address)
    assert n_unfinished >= n_kills // 3
    assert n_resumed >= n_kills // 10
