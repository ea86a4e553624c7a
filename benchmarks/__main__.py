"""Run the benchmarks from the command line."""

import argparse
import sys
from pathlib import Path

from benchmarks import (
    elastic,
    features,
    futures,
    local,
    optimizer,
    overlap,
    parity,
    peers,
    recovery,
)
from benchmarks.charts import plot_results
from benchmarks.network import command as network
from benchmarks.scaling import command as scaling
from skdistmlp.crossover.output import (
    Row,
    check_plot_file,
    check_writable,
    markdown_table,
    write_json,
)

BENCHMARKS = [
    "local",
    "predict",
    "optimizer",
    "features",
    "parity",
    "peers",
    "futures",
]

ONLY_IF_NAMED = ["elastic", "network", "overlap", "recovery", "scaling"]


def main() -> None:
    """Measure, print tables, and write them as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Run the benchmarks of skdistmlp."
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=(
            f"benchmark to run: {', '.join(BENCHMARKS)} (default: all of these), "
            f"{', '.join(ONLY_IF_NAMED[:-1])} or {ONLY_IF_NAMED[-1]}"
        ),
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="timed repeats of each measurement (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=2,
        help=(
            "BLAS threads of the local, predict and features benchmarks "
            "(default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("benchmark.json"),
        help="file to write all results to (default: %(default)s)",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        help="file to plot the results to; its extension sets the format",
    )
    parser.add_argument(
        "--without-torch",
        action="store_true",
        help="leave torch out of the peers and network benchmarks",
    )
    network.add_options(parser)
    recovery.add_options(parser)
    scaling.add_options(parser)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*BENCHMARKS, *ONLY_IF_NAMED}:
        parser.error(
            f"unknown benchmark {', '.join(sorted(unknown))}; choose from "
            f"{', '.join([*BENCHMARKS, *ONLY_IF_NAMED])}"
        )
    if min(arguments.repeats, arguments.threads) < 1:
        parser.error("--repeats and --threads must be at least 1")
    try:
        network.check_options(arguments)
        recovery.check_options(arguments)
        scaling.check_options(arguments)
        check_writable(arguments.json)
        if arguments.plot is not None:
            check_plot_file(arguments.plot)
    except ValueError as error:
        parser.error(str(error))
    selected = arguments.names or BENCHMARKS

    results: dict[str, list[Row]] = {}
    code = 0
    if "network" in selected:
        results, code = network.run(arguments)
        if not results:
            sys.exit(code)
        if code:
            selected = []
    if "scaling" in selected:
        results |= scaling.run(arguments)
    if "overlap" in selected:
        results["overlap"] = list(overlap.compare_forms(arguments.repeats))
    if "local" in selected:
        rows = list(local.compare_training(arguments.threads, arguments.repeats))
        results["local"] = rows
    if "predict" in selected:
        rows = list(local.compare_predictions(arguments.threads, arguments.repeats))
        results["predict"] = rows
    if "optimizer" in selected:
        results |= optimizer.run(arguments.repeats)
    if "features" in selected:
        rows = list(features.compare_locally(arguments.threads, arguments.repeats))
        results["features, local"] = rows
    if "parity" in selected:
        results["parity by BLAS threads"] = list(parity.compare_blas_threads())
    # These come last: a LocalCluster changes the environment of this process.
    if "parity" in selected:
        results["parity by plan"] = list(parity.compare_plans())
    if "features" in selected:
        results["features, peers"] = list(features.compare_on_peers(arguments.repeats))
    if "peers" in selected:
        results |= peers.run(arguments.repeats, torch=not arguments.without_torch)
    if "elastic" in selected:
        rows = list(elastic.compare_growing_clusters(arguments.repeats))
        results["elastic"] = rows
    if "recovery" in selected:
        results |= recovery.run(arguments)
    if "futures" in selected:
        results |= futures.run(arguments.repeats)
    for title, rows in results.items():
        print(f"\n## {title}\n\n{markdown_table(rows)}")
    write_json(arguments.json, results)
    print(f"\nresults written to {arguments.json}")
    if arguments.plot is not None:
        plot_results(arguments.plot, results)
        print(f"plot written to {arguments.plot}")
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
