"""The options of the network benchmark, and how a run of it begins and ends."""

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from benchmarks.network import plans, workloads
from benchmarks.network.interruptions import Interrupted, interruptible
from benchmarks.network.leftovers import remove_leftovers
from benchmarks.network.links import RATES, Link, parse_rate
from benchmarks.network.measurement import TORCH, Results, measure
from benchmarks.network.namespaces import (
    MAX_WORKERS,
    LabError,
    LabUnavailableError,
    check_available,
    open_lab,
)
from benchmarks.network.plans import ONE_THREAD, PLANS
from benchmarks.network.processes import Driver, warn_of_few_cores
from benchmarks.network.workloads import parse_network
from skdistmlp.crossover.output import Row

UNAVAILABLE = 69
"""Exit code where there can be no lab: EX_UNAVAILABLE of sysexits.h."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only the network benchmark has."""
    group = parser.add_argument_group(
        "network",
        "The network benchmark runs only if it is named. It needs Linux and root.",
    )
    group.add_argument(
        "--links",
        nargs="+",
        type=_argument(parse_rate),
        default=list(map(parse_rate, RATES)),
        metavar="RATE",
        help=f"rates of the links in bits per second (default: {' '.join(RATES)})",
    )
    group.add_argument(
        "--delay-ms",
        type=float,
        default=0.0,
        help="delay of each packet, where the kernel has netem (default: none)",
    )
    group.add_argument(
        "--networks",
        nargs="+",
        type=_argument(parse_network),
        metavar="NETWORK",
        help=(
            f"features, hidden layers and, unless it is 200, @batch size (default: "
            f"{' '.join(workloads.DEFAULT)}; with --forecast "
            f"{' '.join(workloads.FORECAST)})"
        ),
    )
    group.add_argument(
        "--workers",
        type=int,
        default=2,
        help="one-thread workers, each in a namespace (default: %(default)s)",
    )
    group.add_argument(
        "--plans",
        nargs="+",
        choices=[name for name in PLANS if name != ONE_THREAD],
        help=(
            f"plans to compare with one thread (default: {', '.join(plans.DEFAULT)}; "
            f"with --forecast {', '.join(plans.FORECAST)})"
        ),
    )
    group.add_argument(
        "--forecast",
        action="store_true",
        help=(
            "also have engine='auto' forecast what each plan takes, and compare; where "
            "a step is expected to take long, fewer are measured"
        ),
    )


def check_options(arguments: argparse.Namespace) -> None:
    """Raise unless the options make sense.

    Raises
    ------
    ValueError
        Says which does not.
    """
    if not 2 <= arguments.workers <= MAX_WORKERS:
        raise ValueError(
            f"--workers is {arguments.workers}, and must be from 2 to {MAX_WORKERS}"
        )
    if not 0 <= arguments.delay_ms <= 10_000:
        raise ValueError(
            f"--delay-ms is {arguments.delay_ms:g}, and must be from 0 to 10000"
        )


def run(arguments: argparse.Namespace) -> tuple[dict[str, list[Row]], int]:
    """Measure; return tables by title, and the exit code.

    Whatever ends it, what was measured completely is in the tables.
    """
    links = [Link(rate, arguments.delay_ms) for rate in arguments.links]
    torch = [] if arguments.without_torch or find_spec("torch") is None else TORCH
    compared = arguments.plans
    if compared is None:
        compared = plans.FORECAST if arguments.forecast else plans.DEFAULT
    networks = arguments.networks
    if networks is None:
        names = workloads.FORECAST if arguments.forecast else workloads.DEFAULT
        networks = list(map(parse_network, names))
    candidates = [ONE_THREAD, *dict.fromkeys(compared), *torch]
    results, code = Results(), 0
    try:
        with interruptible():
            check_available(links)
            for leftover in remove_leftovers():
                _say(f"removed {leftover}, whose process had been killed")
            warn_of_few_cores(arguments.workers)
            with open_lab(arguments.workers) as lab:
                driver = Driver(lab, [*compared, ONE_THREAD])
                options = networks, candidates, arguments.repeats
                measure(lab, driver, links, *options, results, arguments.forecast)
    except Interrupted as interrupted:
        _say(f"interrupted by {interrupted.signal.name}; the lab is removed")
        code = int(interrupted.code or 1)
    except LabUnavailableError as error:
        _say(f"cannot run the network benchmark: {error}")
        code = UNAVAILABLE
    except LabError as error:
        _say(f"the network benchmark failed, and the lab is removed: {error}")
        code = 1
    return results.tables(arguments.workers, arguments.repeats), code


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show the message of a `ValueError`."""

    def argument(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return argument


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
