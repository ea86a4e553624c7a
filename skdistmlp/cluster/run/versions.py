"""Check that scheduler and workers run versions compatible with those here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from platform import python_version
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Client

from skdistmlp._version import __version__
from skdistmlp.cluster.client.dask_release import check_dask_release
from skdistmlp.cluster.client.rpc import run_on_workers, submit_rpc, wait_while
from skdistmlp.cluster.client.workers import known_workers
from skdistmlp.cluster.run.arithmetic import Arithmetic, arithmetic_here
from skdistmlp.exceptions import ClusterError

_CHECKED: WeakKeyDictionary[Client, dict[tuple[str, str], Arithmetic]] = (
    WeakKeyDictionary()
)
"""How workers compute that are known to run the versions of this process, by address
and directory. A worker that restarts may get the same address, with another version,
but a new directory."""

MAX_GONE = 100
"""Workers that are remembered although they have left: a fit compares those that it has
lost with those that take their places. On clusters whose workers come and go, a client
would otherwise remember more and more of them."""

PYTHON_AND_DASK = (
    "__import__('platform').python_version(), __import__('distributed').__version__"
)
"""An expression for the versions of Python and Dask that a process has loaded."""

PACKAGE = "(__import__('skdistmlp'), __import__('skdistmlp.cluster'))[0].__version__"
"""An expression for that of this package; an ImportError where Dask is too old."""


def check_versions(
    client: Client, workers: Sequence[str], check: Callable[[], None]
) -> None:
    """Raise unless scheduler and workers run compatible versions.

    The same minor version of Python, the same version of this package, and a Dask that
    is new enough.

    A worker with another version of this package may be unable to unpickle what it is
    sent, and Dask then closes the worker's connection. Byte code of another minor
    version of Python may end the worker's process: both questions are asked by what
    every Python has itself, and the second one only when the Pythons agree.

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
    checked = _CHECKED.setdefault(client, {})
    known = known_workers(client)
    missing = {
        (worker, known[worker]["local_directory"])
        for worker in workers
        if worker in known
    } - checked.keys()
    if not missing:
        return
    addresses = [worker for worker, _ in missing]
    own = _minor_version(python_version())
    for where, answer in _ask(client, addresses, check, PYTHON_AND_DASK).items():
        python, dask = _result(answer)
        if (found := _minor_version(python)) != own:
            raise ClusterError(
                f"{where} runs Python {found}, this process Python {own}. Use the same "
                f"minor version of Python on the scheduler and on all workers."
            )
        check_dask_release(where, dask)
    for where, answer in _ask(client, addresses, check, PACKAGE).items():
        try:
            version = _result(answer)
        except ImportError as error:
            has_none = error.name == "skdistmlp"
            cannot = f"cannot import skdistmlp ({error})"
            runs = "has no skdistmlp" if has_none else cannot
        else:
            runs = f"runs skdistmlp {version}"
            if version == __version__:
                continue
        raise ClusterError(
            f"{where} {runs}, this process {__version__}. Install the same version on "
            f"the scheduler and on all workers."
        )
    # Versions of others may differ, and so the last bits: see `arithmetic_of`.
    answers = run_on_workers(client, addresses, arithmetic_here)
    wait_while(check, answers.values())
    # Most are equal: one object for all of them.
    equal = {its: its for its in list(checked.values())}
    for key in missing:
        its: Arithmetic = _result(answers[key[0]])
        checked[key] = equal.setdefault(its, its)
    here = {(worker, info["local_directory"]) for worker, info in known.items()}
    # The oldest first. Of a copy, and popped: other threads check versions too.
    gone = [key for key in list(checked) if key not in here]
    for key in gone[: max(0, len(gone) - MAX_GONE)]:
        checked.pop(key, None)


def arithmetic_of(client: Client) -> Mapping[tuple[str, str], Arithmetic]:
    """Return how workers compute, by address and directory.

    Of those that `check_versions` has asked: all that have computed for a fit, and the
    spare ones that may take their places.
    """
    return _CHECKED.get(client, {})


def _ask(
    client: Client,
    workers: Sequence[str],
    check: Callable[[], None],
    question: str,
) -> dict[str, Future[Any]]:
    """Have workers and scheduler evaluate an expression; return their answers."""
    answers: dict[str, Future[Any]] = {
        f"worker {worker}": answer
        for worker, answer in run_on_workers(client, workers, eval, question).items()
    }
    answers["the scheduler"] = submit_rpc(
        client, client.run_on_scheduler, eval, question
    )
    wait_while(check, answers.values())
    return answers


def _result(answer: Future[Any]) -> Any:
    """Return what was answered; a worker's answer comes with its address."""
    found = answer.result()
    return next(iter(found.values())) if isinstance(found, dict) else found


def _minor_version(version: str) -> str:
    """Return the parts of a version of Python that byte code depends on."""
    return ".".join(version.split(".")[:2])
