"""The command ``dask mlp plan``."""

import math
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
    report_memory_shortage,
)

if TYPE_CHECKING:
    from skdistmlp.planning.forecast import Forecast


@click.command()
@connection_options
@click.option(
    "--network",
    metavar="UNITS",
    default="784-1024-1024",
    show_default=True,
    help="Number of features and widths of the hidden layers.",
)
@click.option(
    "--batch-size",
    metavar="N",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Rows per mini-batch.",
)
@click.option(
    "--n-rows",
    metavar="N",
    type=click.IntRange(min=1),
    default=60_000,
    show_default=True,
    help="Rows to train on.",
)
@click.option(
    "--max-iter",
    metavar="N",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Number of epochs.",
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=1, max=1024),
    help="Number of workers that you do not have (yet), each like this process; with "
    "--bandwidth, and without a cluster.",
)
@click.option(
    "--bandwidth",
    metavar="RATE",
    help="Rate of the link of each of these workers, such as 10Gbit.",
)
@click.option(
    "--latency",
    metavar="TIME",
    help="What a few bytes take on these links, such as 0.2ms; by default, what they "
    "take between processes of one machine.",
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="Memory of each of these workers, and of a process that trains alone, such as "
    "16GiB: plans without room are left out. By default, all count.",
)
@click.option(
    "--json",
    "json_path",
    metavar="PATH",
    type=OUTPUT_FILE,
    help="Also write all plans to this JSON file.",
)
@click.option(
    "--plot",
    "plot_path",
    metavar="PATH",
    type=OUTPUT_FILE,
    help="Also plot the time per step by number of workers to this file. Its extension "
    "sets the format, such as .png or .svg. Needs matplotlib.",
)
def plan(
    address: str | None,
    scheduler_file: Path | None,
    tls_ca_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    network: str,
    batch_size: int,
    n_rows: int,
    max_iter: int,
    workers: int | None,
    bandwidth: str | None,
    latency: str | None,
    memory: str | None,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Say what training would take on each number of workers, without training.

    Measures this process, the workers of the cluster whose scheduler is at ADDRESS, and
    the links between them, in about half a second. Without ADDRESS, it starts two
    single-threaded workers on this machine:

    \b
      $ dask mlp plan tcp://192.0.2.1:8786 --network 784-1024-1024

    With --workers and --bandwidth, it says what a cluster would bring that you do not
    have, whose workers are like this process:

    \b
      $ dask mlp plan --workers 16 --bandwidth 10Gbit

    The same figures decide where `engine="auto"` trains.
    """  # noqa: D301 (click keeps the lines of a paragraph that begins with this mark)
    from skdistmlp.crossover.output import markdown_table, write_json
    from skdistmlp.crossover.plans import (
        forecast_for,
        forecast_on,
        note_of_memory,
        parse_bandwidth,
        parse_latency,
        parse_memory,
        table_of,
    )
    from skdistmlp.crossover.workloads import Workload, parse_layers
    from skdistmlp.exceptions import ClusterError
    from skdistmlp.planning.left_out import left_out_lines

    address = address_of(address, scheduler_file)
    if (workers is None) != (bandwidth is None):
        raise click.UsageError("pass --workers and --bandwidth together")
    for option, text in {"--latency": latency, "--memory": memory}.items():
        if text is not None and workers is None:
            raise click.UsageError(f"pass {option} with --workers and --bandwidth")
    if workers is not None and address is not None:
        raise click.UsageError(
            "--workers and --bandwidth are for workers that you do not have: pass them "
            "without a cluster"
        )
    check_outputs(None, json_path, plot_path)
    try:
        bits_per_s = None if bandwidth is None else parse_bandwidth(bandwidth)
        latency_s = None if latency is None else parse_latency(latency)
        memory_bytes = None if memory is None else parse_memory(memory)
        n_features, hidden = parse_layers(network)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    batch_size = min(batch_size, n_rows)
    n_steps = math.ceil(n_rows / batch_size)
    workload = Workload(n_features, hidden, n_steps, max_iter, batch_size)
    note = None
    if workers is not None and bits_per_s is not None:
        try:
            with report_memory_shortage():
                forecast = forecast_for(
                    workload, max_iter, workers, bits_per_s, memory_bytes, latency_s
                )
        except ClusterError as error:
            raise click.ClickException(str(error)) from error
        if memory is None:
            note = note_of_memory(forecast)
    else:
        with connect(address, 2, tls_ca_file, tls_cert, tls_key) as client:
            forecast = forecast_on(client, workload, max_iter)
    click.echo(markdown_table(table_of(forecast)))
    click.echo(f"best: {forecast.rows[0].name}")
    if workers is None:
        for line in forecast.link_lines():
            click.echo(line)
    elif forecast.latency_s is not None:
        click.echo(
            f"assumed: links of {bandwidth} with a latency of "
            f"{1e3 * forecast.latency_s:.3g} ms, and workers like this process"
        )
    for line in left_out_lines(forecast.left_out):
        click.echo(line)
    if note is not None:
        click.echo(note)
    if json_path is not None:
        results = {
            "network": network,
            "batch_size": batch_size,
            "n_rows": n_rows,
            "max_iter": max_iter,
            "latency_s": forecast.latency_s,
            "bits_per_s": forecast.bits_per_s,
            "plans": [row._asdict() for row in forecast.rows],
            "left_out": [each._asdict() for each in forecast.left_out],
        }
        with report_failed_write(json_path):
            write_json(json_path, results)
    if plot_path is not None:
        with report_failed_write(plot_path):
            _plot(plot_path, forecast, network)


def _plot(path: Path, forecast: "Forecast", network: str) -> None:
    from matplotlib.figure import Figure

    from skdistmlp.plotting import ForecastDisplay

    figure = Figure(figsize=(6, 4), layout="constrained")
    ForecastDisplay.from_forecast(forecast, ax=figure.subplots(), name=network)
    figure.savefig(path)
