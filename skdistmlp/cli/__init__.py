"""The command line: ``dask mlp``.

Dask loads this package for every one of its commands, so nothing heavy is imported
before a command runs.
"""

import click

from skdistmlp.cli.checkpoint_command import checkpoint
from skdistmlp.cli.crossover_command import crossover
from skdistmlp.cli.plan_command import plan


@click.group()
def mlp() -> None:
    """Train multilayer perceptrons split by neurons over a Dask cluster."""


mlp.add_command(checkpoint)
mlp.add_command(crossover)
mlp.add_command(plan)
