"""Run the benchmark from the command line."""

import argparse
from pathlib import Path

from benchmarks import futures, local, optimizer, peers
from benchmarks.charts import draw
from skdistmlp.crossover.files import check_picture, check_writable
from skdistmlp.crossover.timing import Row, table, write_json


def main() -> None:
    """Measure, print tables and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parts = ["local", "predict", "optimizer", "peers", "futures"]
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="part",
        help=f"what to measure: {', '.join(parts)}; all of it without",
    )
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"))
    parser.add_argument("--png", type=Path, help="draw charts too; needs matplotlib")
    parser.add_argument("--without-torch", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {parts}")
    if min(arguments.repeats, arguments.threads) < 1:
        parser.error("--repeats and --threads must be 1 or more")
    try:
        check_writable(arguments.json)
        if arguments.png is not None:
            check_picture(arguments.png)
    except ValueError as error:
        parser.error(str(error))
    wanted = arguments.parts or parts

    results: dict[str, list[Row]] = {}
    if "local" in wanted:
        rows = list(local.against_sklearn(arguments.threads, arguments.repeats))
        results["local"] = rows
    if "predict" in wanted:
        rows = list(local.predicting(arguments.threads, arguments.repeats))
        results["predict"] = rows
    if "optimizer" in wanted:
        results["optimizer"] = list(optimizer.block_sizes(arguments.repeats))
    # Last: a LocalCluster changes the environment of this process.
    if "peers" in wanted:
        results |= peers.run(arguments.repeats, torch=not arguments.without_torch)
    if "futures" in wanted:
        results |= futures.run(arguments.repeats)
    for title, rows in results.items():
        print(f"\n## {title}\n\n{table(rows)}")
    write_json(arguments.json, results)
    print(f"\nwritten to {arguments.json}")
    if arguments.png is not None:
        draw(arguments.png, results)
        print(f"drawn to {arguments.png}")


if __name__ == "__main__":
    main()
