"""``dask mlp``: what the command line offers."""

import csv
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
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
    help="File in which the scheduler wrote its address.",
)
@click.option(
    "--n-workers",
    type=click.IntRange(min=2),
    help="Workers that share a network. Default: all; 2 on a cluster that is started.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Rows of a mini-batch; the more, the smaller the networks that are worth it.",
)
@click.option(
    "--n-features",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Width of the input.",
)
@click.option(
    "--max-width",
    type=click.IntRange(HIDDEN[1], HIDDEN[-1]),
    default=HIDDEN[-1],
    show_default=True,
    help="Width of the largest hidden layer to measure.",
)
@click.option(
    "--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Turns."
)
@click.option("--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--png",
    "png_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw it; needs matplotlib.",
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
    workers of the cluster at ADDRESS (such as tcp://192.0.2.1:8786), and prints the
    milliseconds of a step, and the parameter_threshold to use. Without ADDRESS it
    starts workers of one thread on this machine.

    Run it where you would call fit, while nobody else uses the cluster.
    """
    if address is not None and scheduler_file is not None:
        raise click.UsageError("give ADDRESS or --scheduler-file, not both")
    for path in (csv_path, json_path, png_path):
        if path is not None:
            _check_writable(path)
    if png_path is not None:
        _check_picture(png_path)
    from skdistmlp.bench.timing import table, write_json
    from skdistmlp.exceptions import SkdistmlpError

    try:
        with _cluster(address, scheduler_file, n_workers or 2) as client:
            workers, rows = _measured(
                client, n_workers, batch_size, n_features, max_width, repeats
            )
    except SkdistmlpError as error:
        raise click.ClickException(str(error)) from error
    threshold = _threshold(rows)
    # What was measured is said first: a disk may be full.
    click.echo(table(rows))
    click.echo(_advice(rows, threshold, workers))
    try:
        if csv_path is not None:
            with csv_path.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        if json_path is not None:
            write_json(json_path, {"crossover": rows})
        if png_path is not None:
            _draw(png_path, rows, threshold, workers)
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is measured."""
    folder = path.absolute().parent
    if not path.name:
        raise click.UsageError(f"{str(path)!r} is not the name of a file")
    if not folder.is_dir():
        raise click.UsageError(f"there is no folder {folder} for {path.name}")
    is_new = not path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written: {error.strerror}") from error
    if is_new:
        path.unlink()


def _check_picture(path: Path) -> None:
    if find_spec("matplotlib") is None:
        raise click.UsageError('--png needs matplotlib: pip install "skdistmlp[plots]"')
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise click.UsageError(
            f"--png {path.name}: matplotlib draws files that end in "
            f"{', '.join(f'.{name}' for name in sorted(known))}"
        )


@contextmanager
def _cluster(
    address: str | None, scheduler_file: Path | None, n_started: int
) -> "Iterator[Client]":
    """Give a client of the cluster named, or of one that is started."""
    import json

    from skdistmlp.bench.clusters import one_thread_workers
    from skdistmlp.cluster.client import connected

    if scheduler_file is not None:
        try:
            address = json.loads(scheduler_file.read_text())["address"]
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

    from skdistmlp.bench.crossover import growing
    from skdistmlp.bench.workloads import Workload, fit
    from skdistmlp.cluster.client import choose_workers, workers_of
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


def _threshold(rows: list[dict[str, Any]]) -> int | None:
    """Return the parameter_threshold to use; None if sharing never pays."""
    from skdistmlp.bench.crossover import crossover as crossing

    gains = [row["times faster"] for row in rows]
    if gains[-1] <= 1:
        return None
    if all(gain > 1 for gain in gains):
        return int(rows[0]["parameters"])
    found = crossing(rows)
    if math.isnan(found):
        # It wavers: on the safe side, from the last size at which nothing was gained.
        last = max(i for i, gain in enumerate(gains) if gain <= 1)
        found = rows[last + 1]["parameters"]
    digits = 10 ** max(0, math.floor(math.log10(found)) - 1)
    return math.ceil(found / digits) * digits


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


def _advice(rows: list[dict[str, Any]], threshold: int | None, workers: int) -> str:
    if threshold is None:
        return (
            f"{workers} workers were not faster than this process, up to "
            f"{rows[-1]['parameters']:,} parameters. Train here, or try larger batches."
        )
    return (
        f"{workers} workers are faster from about {threshold:,} parameters on: use "
        f"parameter_threshold={threshold}"
    )
