"""``dask mlp``: what the command line offers."""

import csv
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

# Dask loads this file at each of its commands: the rest is imported when needed.
if TYPE_CHECKING:
    from distributed import Client

HIDDEN = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Widths of the hidden layer of the networks that are measured."""

STEPS = {64: 100, 512: 40, 2048: 10}
"""By the widest layer, steps of an epoch: a measurement takes about a second."""


@click.group()
def mlp() -> None:
    """Multilayer perceptrons split by neurons over the workers of a cluster."""


@mlp.command()
@click.argument("address", required=False)
@click.option(
    "--scheduler-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the address of the scheduler from the file that `dask scheduler "
    "--scheduler-file` wrote.",
)
@click.option(
    "--n-workers",
    metavar="N",
    type=click.IntRange(min=2),
    help="Share networks among so many workers; without it among all of a cluster, or "
    "two that are started.",
)
@click.option(
    "--batch-size",
    metavar="N",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Train on mini-batches of so many rows; the more, the smaller the networks "
    "that are worth sharing.",
)
@click.option(
    "--n-features",
    metavar="N",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Train on rows of so many features.",
)
@click.option(
    "--max-width",
    metavar="N",
    type=click.IntRange(HIDDEN[1], HIDDEN[-1]),
    default=HIDDEN[-1],
    show_default=True,
    help=f"Measure hidden layers of {HIDDEN[0]}, {HIDDEN[1]}, {HIDDEN[2]}, ... neurons "
    "up to so many.",
)
@click.option(
    "--repeats",
    metavar="N",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Time each network so often here and on the workers, in turn, and take "
    "medians.",
)
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table to this file.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table, the threshold, the number of workers, the options and what "
    "this machine is to this file.",
)
@click.option(
    "--png",
    "png_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw how many times faster the workers are, in the format that the name of "
    "this file ends in; needs matplotlib.",
)
def crossover(
    address: str | None,
    scheduler_file: Path | None,
    n_workers: int | None,
    batch_size: int,
    n_features: int,
    max_width: int,
    repeats: int,
    csv_path: Path | None,
    json_path: Path | None,
    png_path: Path | None,
) -> None:
    """Measure from how many parameters on sharing a network pays.

    Trains networks of one hidden layer that grow, in turn in this process and on the
    workers of the cluster whose scheduler is at ADDRESS. Without ADDRESS it starts
    workers of one thread on this machine. Prints the milliseconds of a training step,
    how many times faster the workers are, and the parameter_threshold to use:

    \b
      $ dask mlp crossover tcp://192.0.2.1:8786 --png crossover.png
      ...
      4 workers are faster from about 9,800 parameters on: use
      parameter_threshold=9800
      A fit takes about 90 ms more on them, however many steps it has; if yours
      are as short as that, use a higher threshold.

    That is a parameter of the estimators, which train networks with fewer parameters
    in the process that calls fit, and the others on the cluster:

    \b
      DistributedMLPClassifier((512, 512), parameter_threshold=9800)

    It takes a minute or two: less with --max-width 256, more with --repeats 5.
    Run it where you would call fit, while nobody else uses the cluster. For a cluster
    with TLS it needs Dask's configuration (distributed.comm.tls), as `dask worker`
    does without its --tls options.
    """  # noqa: D301 (the mark is click's, for lines that stay as they are)
    from skdistmlp.crossover.files import check_picture, check_writable
    from skdistmlp.crossover.measurement import advice, parameter_threshold
    from skdistmlp.crossover.timing import table, write_json
    from skdistmlp.exceptions import SkdistmlpError

    if address is not None and scheduler_file is not None:
        raise click.UsageError("give ADDRESS or --scheduler-file, not both")
    written = [path for path in (csv_path, json_path, png_path) if path is not None]
    if len({path.resolve() for path in written}) < len(written):
        raise click.UsageError("--csv, --json and --png need a file each")
    try:
        for path in (csv_path, json_path):
            if path is not None:
                check_writable(path)
        if png_path is not None:
            check_picture(png_path)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        with _cluster(address, scheduler_file, n_workers or 2) as client:
            workers, rows = _measured(
                client, n_workers, batch_size, n_features, max_width, repeats
            )
    except SkdistmlpError as error:
        raise click.ClickException(_as_options(str(error))) from error
    except MemoryError as error:
        raise click.ClickException(
            f"the rows do not fit this process: {error}. Lower --n-features or "
            f"--batch-size."
        ) from error
    threshold = parameter_threshold(rows)
    # What was measured is said first: a disk may be full.
    click.echo(table(rows))
    click.echo(advice(rows, workers))
    if csv_path is not None:
        with _writing(csv_path), csv_path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    if json_path is not None:
        measured = {
            "parameter_threshold": threshold,
            "n_workers": workers,
            "batch_size": batch_size,
            "n_features": n_features,
            "repeats": repeats,
            "crossover": rows,
        }
        with _writing(json_path):
            write_json(json_path, measured)
    if png_path is not None:
        with _writing(png_path):
            _draw(png_path, rows, threshold, workers)


def _as_options(message: str) -> str:
    """Say what the command was given, where an error names parameters of a fit."""
    message = re.sub(r"\bclient=(['\"])(.*?)\1", r"\2", message)
    message = message.replace("n_workers=", "--n-workers ")
    return message.replace("n_workers", "--n-workers")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    # Matplotlib's error when a format needs another program, such as LaTeX.
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise click.ClickException(f"{path} was not written: {why}") from error


@contextmanager
def _cluster(
    address: str | None, scheduler_file: Path | None, n_started: int
) -> "Iterator[Client]":
    """Give a client of the cluster named, or of one that is started."""
    import json

    from skdistmlp.cluster.client.lookup import connected
    from skdistmlp.crossover.clusters import one_thread_workers

    if scheduler_file is not None:
        try:
            address = json.loads(scheduler_file.read_text())["address"]
            if not isinstance(address, str):
                raise TypeError("an address is a string")
        except (ValueError, KeyError, TypeError) as error:
            raise click.UsageError(
                f"{scheduler_file} is not a file that `dask scheduler "
                f"--scheduler-file` writes"
            ) from error
    if address is None:
        with one_thread_workers(n_started) as client:
            yield client
        return
    with connected(address) as found:
        assert found is not None, "an address leads to a client, or to an error"
        yield found


def _measured(
    client: "Client",
    n_workers: int | None,
    batch_size: int,
    n_features: int,
    max_width: int,
    repeats: int,
) -> tuple[int, list[dict[str, Any]]]:
    """Return how many workers shared the networks, and a row a network."""
    from functools import partial

    from skdistmlp.cluster.client.workers import choose_workers, workers_of
    from skdistmlp.crossover.measurement import growing
    from skdistmlp.crossover.workloads import Workload, fit
    from skdistmlp.estimators import DistributedMLPClassifier

    n_present = len(workers_of(client))
    if n_present < 2:
        raise click.ClickException(
            f"workers that share a network are two or more, but the cluster has "
            f"{n_present}: start some with `dask worker ADDRESS`"
        )
    workers = len(choose_workers(client, n_workers))
    candidates: dict[str, Callable[..., Any]] = {
        "here": partial(DistributedMLPClassifier, engine="local"),
        f"{workers} workers": partial(
            DistributedMLPClassifier,
            client=client,
            engine="peers",
            n_workers=workers,
            parameter_threshold=0,
        ),
    }
    tiny = Workload(4, (4,), n_steps=2, n_epochs=1)
    for make in candidates.values():
        fit(make(**tiny.parameters()), *tiny.data())
    workloads = [
        Workload(
            n_features,
            (width,),
            n_steps=next(n for most, n in STEPS.items() if width <= most),
            n_epochs=3,
            batch_size=batch_size,
        )
        for width in HIDDEN
        if width <= max_width
    ]
    with click.progressbar(
        growing(candidates, workloads, repeats),
        length=len(workloads),
        label="measuring",
        file=sys.stderr,
    ) as rows:
        return workers, list(rows)


def _draw(
    path: Path, rows: list[dict[str, Any]], threshold: int | None, workers: int
) -> None:
    from matplotlib.figure import Figure

    from skdistmlp.plotting import CrossoverDisplay

    figure = Figure(figsize=(6, 4), layout="constrained")
    CrossoverDisplay(
        n_parameters=[row["parameters"] for row in rows],
        times_faster=[row["times faster"] for row in rows],
        crossing=threshold,
        name=f"{workers} workers",
    ).plot(figure.subplots())
    figure.savefig(path)
