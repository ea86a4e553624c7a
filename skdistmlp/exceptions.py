"""Errors that this package raises besides scikit-learn's and Dask's own."""

import re
from typing import Literal


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, for messages: "1 row", "2,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def what_happened(error: Exception) -> str:
    """Return what an error says is wrong, without what it says should be done.

    For a warning of a call that goes on: advice such as to call again is for one that
    has ended. Our messages begin with what is wrong.
    """
    return re.split(r"[.;] ", str(error))[0].removesuffix(".")


class SkdistmlpError(Exception):
    """Base class of the errors that only this package raises.

    Input that scikit-learn refuses, and parameters that cannot be right, raise
    ``ValueError`` or ``TypeError``, as in scikit-learn.
    """


class ClusterError(SkdistmlpError):
    """The cluster cannot do what was asked of it.

    It cannot be reached, has too few workers or too little memory, or runs another
    version of this package. Its subclasses name two faults that usually pass when
    you call again.
    """


class WorkerLostError(ClusterError):
    """A worker was lost, and its shard of the network with it.

    Parameters
    ----------
    message : str
        What happened, and what to do.
    workers : tuple of str
        Addresses of workers that are of no use although they have not left the cluster.
    kind : {"lost", "retired", "paused"}
        What was the matter with these workers when this was raised: those that were
        being retired or paused still answered, and may accept tasks again by now.

    Attributes
    ----------
    silent : tuple of str or None
        Addresses of workers that did not answer when a fit ended with this; None if
        nobody has asked them.
    """

    silent: tuple[str, ...] | None = None

    def __init__(
        self,
        message: str,
        workers: tuple[str, ...] = (),
        kind: Literal["lost", "retired", "paused"] = "lost",
    ) -> None:
        super().__init__(message)
        self.workers = workers
        self.kind = kind


class ExchangeError(ClusterError):
    """The shards of a network could not exchange what a step needs.

    Attributes
    ----------
    before_training : bool
        Whether a fit ended with this before its shards had found each other, and so
        before its first step.
    apart : tuple of (int, int)
        Ranks of shards that could not connect to each other, pair by pair, if that is
        what failed.
    silent : tuple of str or None
        See `WorkerLostError`.
    """

    silent: tuple[str, ...] | None = None
    before_training: bool = False
    apart: tuple[tuple[int, int], ...] = ()


class CheckpointError(SkdistmlpError):
    """A file in the place of a checkpoint is none of this fit, or cannot be read."""
