"""Run the command in a separate process."""

import os
import subprocess
import sys

from tests.terminal import ROOT


def dask_mlp(*arguments):
    """Run the command in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "dask", "mlp", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            # For addresses that do not answer.
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s",
        },
    )
