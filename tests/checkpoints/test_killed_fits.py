"""`kill -9` of a process that writes checkpoints, at random moments."""

import subprocess
import sys

import pytest

from tests.marks import only_quick


@pytest.mark.parametrize("n_kills", only_quick(0, cases=[6, 200]))
def test_a_fit_killed_at_any_moment_is_resumed_to_the_same_bits(n_kills):
    done = subprocess.run(
        [sys.executable, "-m", "tests.checkpoints.killed_fits", str(n_kills)],
        capture_output=True,
        text=True,
        check=False,
        timeout=570,
    )
    assert done.returncode == 0, done.stderr
    n_done, n_writing, n_resumed = map(int, done.stdout.split())
    assert n_done == n_kills
    # The moments that matter: in the middle of writing, and with a file to resume from.
    assert n_writing >= n_kills // 10
    assert n_resumed >= n_kills // 3
