"""The options of the scaling benchmark, and a run of it."""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.scaling import measured, rates, tables
from benchmarks.scaling.page import check_markers, with_tables
from benchmarks.timing import with_progress
from skdistmlp.crossover.output import Row


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only the scaling benchmark has."""
    group = parser.add_argument_group(
        "scaling",
        "The scaling benchmark runs only if it is named. It measures what one thread "
        "of this machine does, and computes what networks gain on many.",
    )
    group.add_argument(
        "--page",
        type=Path,
        help="page to write the tables into, between its markers: docs/scaling.md",
    )
    group.add_argument(
        "--keep-rates",
        action="store_true",
        help="compute with the rates of the page, and measure nothing",
    )
    group.add_argument(
        "--lab",
        type=Path,
        help="JSON file of the network benchmark, to put beside the model from now on",
    )


def check_options(arguments: argparse.Namespace) -> None:
    """Raise unless the files can be read.

    Raises
    ------
    ValueError
        Says which cannot.
    """
    if arguments.page is not None:
        check_markers(_text_of(arguments.page), tables.NAMES)
    if arguments.lab is not None:
        text = _text_of(arguments.lab)
        try:
            found = json.loads(text)["network, 2 workers"]
        except (ValueError, KeyError):
            found = []
        if not found:
            raise ValueError(
                f"{arguments.lab} has no figures of two workers: expected what "
                f"`python -m benchmarks network --json {arguments.lab}` writes"
            )


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def run(arguments: argparse.Namespace) -> dict[str, list[Row]]:
    """Measure, compute, and write the page if one is given; return tables by title."""
    if arguments.lab is not None:
        written = datetime.fromtimestamp(arguments.lab.stat().st_mtime, UTC)
        measured.add_lab(json.loads(arguments.lab.read_text()), f"{written:%B %Y}")
    if arguments.keep_rates:
        found = rates.read()
    else:
        (found,) = (
            rates.measure() for _ in with_progress("scaling", ["one thread"], str)
        )
    computed = tables.all_tables(found)
    if arguments.page is not None:
        arguments.page.write_text(with_tables(arguments.page.read_text(), computed))
        # A page is of one set of rates: a test compares the two.
        rates.write(found)
    return {f"scaling: {name}": rows for name, rows in computed.items()}
