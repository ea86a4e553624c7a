"""Functions that every worker can unpickle, whatever is installed there.

Dask unpickles a task while it reads from the connection to the scheduler. If that
fails, the worker ends, and the scheduler sends the task to the next one. So a task that
may run anywhere must not name this package: what does is bytes, which the task itself
unpickles. And byte code may end a worker with another version of Python, so the text of
this module is sent in its place. It must therefore import the standard library only.
"""

import inspect
import pickle
import sys
from importlib import import_module
from typing import Any


def _own_text() -> str:
    """Return the text of this module; empty if it is installed as byte code only."""
    try:
        # Asks the loader: a package in a zip file has no file of its own.
        return inspect.getsource(sys.modules[__name__])
    except OSError:
        return ""


# Where this text has been unpickled it has no source, and is among its own names.
SOURCE: str = globals().get("SOURCE") or _own_text()

UNPICKLE = "exec(SOURCE, globals()) or PortableFunction(*state)"
"""Runs this text, and returns a function that it defines. An `exec` returns None."""


class PortableFunction:
    """Unpickle a function in the task that calls it, after a look at the version.

    Parameters
    ----------
    name : str
        What the dashboard shows.
    version : str
        Version of this package that has pickled the function.
    """

    def __init__(self, name: str, version: str) -> None:
        self.__name__ = name
        self.version = version

    def __call__(self, argument: Any, pickled: bytes) -> Any:
        """Return the value of a function.

        Parameters
        ----------
        argument : object
            Its argument.
        pickled : bytes
            The function.

        Raises
        ------
        ImportError
            If this process has no `skdistmlp`, or another version.
        """
        advice = f"Install skdistmlp {self.version} on all workers."
        try:
            version = import_module("skdistmlp").__version__
        except ImportError as error:
            raise type(error)(
                f"{_this_process()} cannot import skdistmlp: {error}. {advice}",
                name=error.name,
            ) from None
        if version != self.version:
            raise ImportError(
                f"{_this_process()} runs skdistmlp {version}, but was sent a task of "
                f"skdistmlp {self.version}. {advice}"
            )
        return pickle.loads(pickled)(argument)

    def __reduce__(self) -> tuple[Any, ...]:
        if not SOURCE:
            raise ImportError(
                "skdistmlp is installed here without its source files, but the text of "
                "one of them has to be sent to workers. Install skdistmlp with its .py "
                "files."
            )
        names = {
            "__name__": "skdistmlp_portable",
            "SOURCE": SOURCE,
            "state": (self.__name__, self.version),
        }
        return eval, (UNPICKLE, names)


def _this_process() -> str:
    try:
        worker = import_module("distributed").get_worker()
    except (ImportError, ValueError):  # not in a task
        return "this process"
    return f"worker {worker.address}"
