"""What the commands share: a cluster to connect to, and files to write."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from distributed import Client

Command = TypeVar("Command", bound=Callable[..., Any])

OUTPUT_FILE = click.Path(dir_okay=False, path_type=Path)
INPUT_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def connection_options(command: Command) -> Command:
    """Give a command the options that name a cluster, and those for TLS.

    It is called with `address`, `scheduler_file` and the three files for TLS, which
    `connect` takes.
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = [
    click.argument("address", required=False),
    click.option(
        "--scheduler-file",
        type=INPUT_FILE,
        help="File with the scheduler's address, as written by `dask scheduler "
        "--scheduler-file`.",
    ),
    click.option(
        "--tls-ca-file",
        type=INPUT_FILE,
        help="CA certificates file for TLS, in PEM format.",
    ),
    click.option(
        "--tls-cert",
        type=INPUT_FILE,
        help="Certificate file of this client for TLS, in PEM format.",
    ),
    click.option(
        "--tls-key",
        type=INPUT_FILE,
        help="Private key file of this client for TLS, in PEM format.",
    ),
]


def address_of(address: str | None, scheduler_file: Path | None) -> str | None:
    """Return the scheduler's address from either of two options."""
    if address is not None and scheduler_file is not None:
        raise click.UsageError("pass either ADDRESS or --scheduler-file, not both")
    return address if scheduler_file is None else _read_address(scheduler_file)


@contextmanager
def connect(
    address: str | None,
    n_local: int,
    ca_file: Path | None,
    cert: Path | None,
    key: Path | None,
) -> "Iterator[Client]":
    """Connect to a cluster; without an address, start workers on this machine."""
    from skdistmlp.exceptions import SkdistmlpError

    try:
        with (
            report_memory_shortage(),
            _tls(address, ca_file, cert, key),
            _cluster(address, n_local) as client,
        ):
            yield client
    except SkdistmlpError as error:
        raise click.ClickException(_name_options(str(error))) from error


@contextmanager
def report_memory_shortage() -> "Iterator[None]":
    """Say what to do if this process has no memory for the rows of a mini-batch."""
    try:
        yield
    except MemoryError as error:
        raise click.ClickException(
            f"the rows do not fit in the memory of this process: {error}. Use fewer "
            f"features or a lower --batch-size."
        ) from error


def check_outputs(
    csv_path: Path | None, json_path: Path | None, plot_path: Path | None
) -> None:
    """Raise unless the files can be written, before time is spent measuring."""
    from skdistmlp.crossover.output import check_plot_file, check_writable

    outputs = [path for path in (csv_path, json_path, plot_path) if path is not None]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise click.UsageError("--csv, --json and --plot must name different files")
    try:
        for path in (csv_path, json_path):
            if path is not None:
                check_writable(path)
        if plot_path is not None:
            check_plot_file(plot_path)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _name_options(message: str) -> str:
    """Name the command's options where a message names an estimator's parameters."""
    message = re.sub(r"\bclient=(['\"])(.*?)\1", r"\2", message)
    message = message.replace("n_workers=", "--n-workers ")
    return message.replace("n_workers", "--n-workers")


@contextmanager
def report_failed_write(path: Path) -> Iterator[None]:
    """Say which file could not be written, and why."""
    try:
        yield
    # Matplotlib raises RuntimeError where a format needs a program that is missing,
    # such as LaTeX.
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.ClickException(f"could not write {path}: {reason}") from error


def _read_address(scheduler_file: Path) -> str:
    try:
        address = json.loads(scheduler_file.read_text())["address"]
        if not isinstance(address, str):
            raise TypeError("an address is a string")
    except (ValueError, KeyError, TypeError) as error:
        raise click.UsageError(
            f"{scheduler_file} has no scheduler address: pass a file that `dask "
            f"scheduler --scheduler-file` wrote"
        ) from error
    return address


@contextmanager
def _tls(
    address: str | None, ca_file: Path | None, cert: Path | None, key: Path | None
) -> Iterator[None]:
    """Set the certificates with which this process connects to the cluster.

    They go to Dask's configuration, where every connection to the scheduler and the
    workers looks for them.
    """
    import dask

    from skdistmlp.cluster._dask import client_tls_arguments

    files = {"ca-file": ca_file, "client.cert": cert, "client.key": key}
    settings = {
        f"distributed.comm.tls.{name}": str(path.absolute())
        for name, path in files.items()
        if path is not None
    }
    if not settings:
        yield
        return
    if address is None:
        raise click.UsageError("the --tls options need the ADDRESS of a cluster")
    with dask.config.set(settings):
        try:
            context = client_tls_arguments()["ssl_context"]
        except OSError as error:
            raise click.UsageError(
                f"cannot load the certificates of the --tls options: {error}"
            ) from error
        if context is None:
            raise click.UsageError(
                "TLS needs a CA file and a certificate: pass both --tls-ca-file and "
                "--tls-cert"
            )
        yield


@contextmanager
def _cluster(address: str | None, n_local: int) -> "Iterator[Client]":
    """Connect to the cluster at an address; without one, start local workers."""
    from skdistmlp.cluster.client.lookup import connected
    from skdistmlp.crossover.local_workers import single_threaded_workers

    if address is None:
        with single_threaded_workers(n_local) as client:
            yield client
        return
    with connected(address) as found:
        assert found is not None, "an address leads to a client or to an error"
        yield found
