"""The version of this package, the same everywhere."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Client

from skdistmlp.cluster.client.rpc import ask, submit_rpc, wait_while
from skdistmlp.cluster.client.workers import known_workers
from skdistmlp.exceptions import ClusterError

_CHECKED: WeakKeyDictionary[Client, set[tuple[str, str]]] = WeakKeyDictionary()
"""Workers that have the version of this process, by address and directory: one that
comes back may have the address of before, but makes a directory of its own."""


def check_versions(
    client: Client, workers: Sequence[str], check: Callable[[], None]
) -> None:
    """Make sure that scheduler and workers have this version of this package.

    With another, what is sent to a worker may not be read there, and Dask then ends
    the worker's connection.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses.
    check : callable
        Called now and then while waiting; ends the wait if it raises.

    Raises
    ------
    ClusterError
        If one has another version, or none.
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

    # Nested, to be sent by value: where it is sent this package may be missing.
    def loaded_version() -> str:
        try:
            from skdistmlp._version import __version__
        except ImportError:
            return "no"
        return __version__

    answers: dict[str, Future[Any]] = {
        f"worker {worker}": answer
        for worker, answer in ask(
            client, [worker for worker, _ in missing], loaded_version
        ).items()
    }
    answers["the scheduler"] = submit_rpc(
        client, client.run_on_scheduler, loaded_version
    )
    wait_while(check, answers.values())
    own = loaded_version()
    for where, answer in answers.items():
        found = answer.result()
        if isinstance(found, dict):
            (found,) = found.values()
        if found != own:
            raise ClusterError(
                f"{where} has {found} skdistmlp, but this process has {own}. Install "
                f"the same version on the scheduler and on all workers."
            )
    checked.update(missing)
