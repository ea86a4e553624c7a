"""The command ``dask mlp crossover``."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skdistmlp.cli.connection import (
    OUTPUT_FILE,
    address_of,
    check_outputs,
    connect,
    connection_options,
    report_failed_write,
)

# Dask loads this file for every one of its commands, so nothing heavy is imported
# before this command runs.
if TYPE_CHECKING:
    from distributed import Client

    from skdistmlp.crossover.measurement import Measurement

HIDDEN_WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Widths of the hidden layers to measure."""

STEPS_PER_EPOCH = {64: 100, 512: 40, 2048: 10}
"""Steps per epoch, by the widest layer: a fit then takes about a second."""


@click.command()
@connection_options
@click.option(
    "--n-workers",
    metavar="N",
    type=click.IntRange(min=2),
    help="Number of workers to split each network over.  [default: all of the cluster, "
    "or 2 local ones]",
)
@click.option(
    "--batch-size",
    metavar="N",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Rows per mini-batch. With larger batches, smaller networks are worth "
    "distributing.",
)
@click.option(
    "--n-features",
    metavar="N",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Number of features per row.",
)
@click.option(
    "--max-width",
    metavar="N",
    type=click.IntRange(HIDDEN_WIDTHS[1], HIDDEN_WIDTHS[-1]),
    default=HIDDEN_WIDTHS[-1],
    show_default=True,
    help="Widest hidden layer to measure, in a series of "
    f"{', '.join(map(str, HIDDEN_WIDTHS[:3]))}, ... neurons.",
)
@click.option(
    "--n-layers",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of hidden layers of each network, all of the same width. The more "
    "there are, the more is computed and exchanged.",
)
@click.option(
    "--repeats",
    metavar="N",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of timed repeats per network.",
)
@click.option(
    "--csv",
    "csv_path",
    metavar="PATH",
    type=OUTPUT_FILE,
    help="Also write the table to this CSV file.",
)
@click.option(
    "--json",
    "json_path",
    metavar="PATH",
    type=OUTPUT_FILE,
    help="Also write the table, the threshold, the options and a description of this "
    "machine to this JSON file.",
)
@click.option(
    "--plot",
    "plot_path",
    metavar="PATH",
    type=OUTPUT_FILE,
    help="Also plot the speed-up by network size to this file. Its extension sets the "
    "format, such as .png or .svg. Needs matplotlib.",
)
def crossover(
    address: str | None,
    scheduler_file: Path | None,
    tls_ca_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    n_workers: int | None,
    batch_size: int,
    n_features: int,
    max_width: int,
    n_layers: int,
    repeats: int,
    csv_path: Path | None,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Measure from what network size on distributed training is faster.

    Trains networks of growing size, each in turn in this process (the baseline) and
    distributed over the workers of the cluster whose scheduler is at ADDRESS. Without
    ADDRESS, it starts single-threaded workers on this machine. Prints the milliseconds
    per training step, the speed-up, and the parameter_threshold to use:

    \b
      $ dask mlp crossover tcp://192.0.2.1:8786 --plot crossover.png
      ...
      4 workers are faster from about 9,800 parameters up: use
      parameter_threshold=9800
      A fit on them takes about 90 ms longer, however many steps it has; if
      your fits are that short, use a higher threshold.

    Estimators train networks with fewer parameters than that in the process that calls
    fit, and larger ones on the cluster. Set it for all estimators in Dask's
    configuration, or for a single one:

    \b
      $ export DASK_SKDISTMLP__PARAMETER_THRESHOLD=9800
      DistributedMLPClassifier(..., parameter_threshold=9800)

    This takes a minute or two; --max-width 256 makes it shorter, --repeats 5 more
    precise. Run it where you would call fit, while nobody else uses the cluster. For a
    cluster with TLS, pass the --tls options as to `dask worker`, or set
    distributed.comm.tls in Dask's configuration.
    """  # noqa: D301 (click keeps the lines of a paragraph that begins with this mark)
    from skdistmlp.crossover.advice import advise, describe_errors, impossible
    from skdistmlp.crossover.output import markdown_table, write_json
    from skdistmlp.crossover.rule import parameter_threshold

    address = address_of(address, scheduler_file)
    check_outputs(csv_path, json_path, plot_path)
    with connect(address, n_workers or 2, tls_ca_file, tls_cert, tls_key) as client:
        n_used, max_speedup, measurements = _measure(
            client, n_workers, batch_size, n_features, max_width, n_layers, repeats
        )
    rows = [asdict(measured) for measured in measurements]
    threshold = None
    if not impossible(measurements, max_speedup):
        threshold = parameter_threshold(
            [measured.n_parameters for measured in measurements],
            [measured.speedup for measured in measurements],
        )
    # The answer is printed before any file is written: the disk may be full.
    click.echo(markdown_table(rows))
    click.echo(advise(measurements, n_used, max_speedup))
    if errors := describe_errors(measurements):
        click.echo(errors)
    if csv_path is not None:
        with report_failed_write(csv_path), csv_path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    if json_path is not None:
        results = {
            "parameter_threshold": threshold,
            "n_workers": n_used,
            "batch_size": batch_size,
            "n_features": n_features,
            "n_layers": n_layers,
            "repeats": repeats,
            "measurements": rows,
        }
        with report_failed_write(json_path):
            write_json(json_path, results)
    if plot_path is not None:
        with report_failed_write(plot_path):
            _plot(plot_path, measurements, threshold, n_used)


def _measure(
    client: "Client",
    n_workers: int | None,
    batch_size: int,
    n_features: int,
    max_width: int,
    n_layers: int,
    repeats: int,
) -> "tuple[int, float, list[Measurement]]":
    """Return the number of workers, their highest speed-up, and the measurements."""
    from functools import partial

    from skdistmlp.cluster.client.workers import (
        choose_workers,
        threads_of,
        why_too_few,
        workers_of,
    )
    from skdistmlp.crossover.measurement import (
        SPEEDUP_PER_THREAD,
        measure_growing_networks,
    )
    from skdistmlp.crossover.plans import expected_speedup
    from skdistmlp.crossover.workloads import Workload
    from skdistmlp.estimators import DistributedMLPClassifier
    from skdistmlp.estimators.uninterrupted import fit_uninterrupted

    n_present = len(workers_of(client))
    if n_present < 2:
        if why := why_too_few(client, n_present, 2):
            raise click.ClickException(
                f"need at least 2 workers, the cluster has {n_present} {why}"
            )
        raise click.ClickException(
            f"need at least 2 workers, the cluster has {n_present}: start more with "
            f"`dask worker ADDRESS`"
        )
    used = choose_workers(client, n_workers)
    n_used = len(used)
    max_speedup = SPEEDUP_PER_THREAD * sum(threads_of(client, used))
    baseline = partial(DistributedMLPClassifier, engine="local")
    distributed = partial(
        DistributedMLPClassifier,
        client=client,
        engine="peers",
        n_workers=n_used,
    )
    # The first fit imports and compiles what it needs, here and on the workers.
    tiny = Workload(4, (4,), n_steps=2, n_epochs=1)
    for make_estimator in (baseline, distributed):
        fit_uninterrupted(make_estimator(**tiny.parameters()), *tiny.data())
    workloads = [
        Workload(
            n_features,
            (width,) * n_layers,
            n_steps=next(n for widest, n in STEPS_PER_EPOCH.items() if width <= widest),
            n_epochs=3,
            batch_size=batch_size,
        )
        for width in HIDDEN_WIDTHS
        if width <= max_width
    ]
    with click.progressbar(
        measure_growing_networks(
            baseline,
            distributed,
            workloads,
            repeats,
            max_speedup,
            partial(expected_speedup, client, n_used),
        ),
        length=len(workloads),
        label="measuring",
        file=sys.stderr,
    ) as measurements:
        return n_used, max_speedup, list(measurements)


def _plot(
    path: Path,
    measurements: "Sequence[Measurement]",
    threshold: int | None,
    n_workers: int,
) -> None:
    from matplotlib.figure import Figure

    from skdistmlp.plotting import CrossoverDisplay

    figure = Figure(figsize=(6, 4), layout="constrained")
    CrossoverDisplay(
        n_parameters=[measured.n_parameters for measured in measurements],
        speedups=[measured.speedup for measured in measurements],
        parameter_threshold=threshold,
        name=f"{n_workers} workers",
    ).plot(figure.subplots())
    figure.savefig(path)
