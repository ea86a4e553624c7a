"""Check that scheduler and workers run the same version of this package."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Client

from skdistmlp._version import __version__
from skdistmlp.cluster.client.rpc import run_on_workers, submit_rpc, wait_while
from skdistmlp.cluster.client.workers import known_workers
from skdistmlp.exceptions import ClusterError

_CHECKED: WeakKeyDictionary[Client, set[tuple[str, str]]] = WeakKeyDictionary()
"""Workers known to run the version of this process, by address and directory. A worker
that restarts may get the same address, with another version, but a new directory."""


def check_versions(
    client: Client, workers: Sequence[str], check: Callable[[], None]
) -> None:
    """Raise unless scheduler and workers run this version of this package.

    A worker with another version may be unable to unpickle what it is sent, and Dask
    then closes the worker's connection.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses.
    check : callable
        Called every few seconds during the wait; ends it by raising.

    Raises
    ------
    ClusterError
        If one runs another version, or has none.
    """
    checked = _CHECKED.setdefault(client, set())
    known = known_workers(client)
    missing = {
        (worker, known[worker]["local_directory"])
        for worker in workers
        if worker in known
    } - checked
    if not missing:
        return

    # Nested, so that it is pickled by value: this package may be missing where it runs,
    # or of another version, of which only the public name is certain.
    def loaded_version() -> str | None:
        try:
            version: str = import_module("skdistmlp").__version__
        except ImportError:
            return None
        return version

    answers: dict[str, Future[Any]] = {
        f"worker {worker}": answer
        for worker, answer in run_on_workers(
            client, [worker for worker, _ in missing], loaded_version
        ).items()
    }
    answers["the scheduler"] = submit_rpc(
        client, client.run_on_scheduler, loaded_version
    )
    wait_while(check, answers.values())
    own = __version__
    for where, answer in answers.items():
        found = answer.result()
        if isinstance(found, dict):
            (found,) = found.values()
        if found != own:
            runs = "has no skdistmlp" if found is None else f"runs skdistmlp {found}"
            raise ClusterError(
                f"{where} {runs}, this process {own}. Install the same version on the "
                f"scheduler and on all workers."
            )
    checked.update(missing)
