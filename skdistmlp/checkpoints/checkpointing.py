"""When a fit writes its checkpoint, and what becomes of the file."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from skdistmlp.checkpoints.fingerprint import fingerprint
from skdistmlp.exceptions import CheckpointError, ClusterError, counted
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.settings import checkpoint_interval_s
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.loop import Log, quiet
from skdistmlp.training.pace import Pace
from skdistmlp.training.progress import BEGAN_AGAIN, LbfgsProgress, Outcome
from skdistmlp.training.state import TrainingState

if TYPE_CHECKING:
    from skdistmlp.checkpoints.store import CheckpointFile

LOG = logging.getLogger("skdistmlp")

MAX_SHARE = 0.02
"""Share of the training time that copies in memory, and writing files, may each take:
what takes a second to write is written every 50 s at most."""

STACKLEVEL = 9
"""Frames from a warning to the line that called `fit`, in most cases."""


class Checkpointing:
    """Keeps the checkpoint of one fit.

    Between two epochs it is offered the state. It writes the file now and then, and
    keeps a newer copy in memory, which it writes if the fit ends early: at the end of
    an interrupt or an error the parameters are from the middle of an epoch, and only
    from between two epochs can a fit give the bits of an undisturbed one.

    Parameters
    ----------
    file : CheckpointFile
        Where to.
    interval_s : float
        Seconds between two files, at least.
    log : callable
        Takes lines for the user, if they want any.

    Attributes
    ----------
    n_iter : int or None
        The epoch or iteration of the state in the file; None without one.
    notice : str or None
        What the user has to know of a fit that was resumed, if anything.
    """

    def __init__(
        self, file: CheckpointFile, interval_s: float, log: Log = quiet
    ) -> None:
        self._file = file
        self._log = log
        self._writing = Pace(MAX_SHARE, interval_s)
        self._copying = Pace(MAX_SHARE)
        # A copy that is newer than the file.
        self._copy: TrainingState | None = None
        # The kinds of errors that the user has been told of since the last file.
        self._failures: set[tuple[type[Exception], object]] = set()
        self._has_ended = False
        # The state in the file.
        self._position = ""
        self.n_iter: int | None = None
        self.notice: str | None = None

    def load(self) -> TrainingState | None:
        """Return the state that the fit resumes from, if there is any."""
        state = self._file.load()
        if state is None:
            # No warning: the fits of a search share a directory, and all but the first
            # find files of others. Whoever expects this one to resume looks here.
            if n_others := self._file.count_others():
                line = (
                    f"Starting from scratch: {self._file.directory} has "
                    f"{counted(n_others, 'checkpoint')}, but none of a fit with these "
                    f"parameters and this data."
                )
                LOG.info(line)
                self._log(line)
        else:
            self._note_file(state)
            if isinstance(state.progress, LbfgsProgress):
                self.notice = (
                    f"the fit resumed from {self._file}, after {self._position}, where "
                    f"{BEGAN_AGAIN}."
                )
        return state

    @property
    def _newest(self) -> int:
        """The last epoch of which there is a copy or a file; 0 without."""
        copied = 0 if self._copy is None else int(self._copy.progress.n_iter)
        return max(self.n_iter or 0, copied)

    def offer(
        self, state: TrainingState, snapshot: Callable[[], TrainingState]
    ) -> None:
        """Keep a state, if it is time, and if it is newer than what there is.

        Parameters
        ----------
        state : TrainingState
            Between two epochs or iterations. Not copied.
        snapshot : callable
            Returns a copy of it, with the arrays of the whole network.
        """
        # After a recovery, epochs are trained again.
        if state.progress is None or state.progress.n_iter <= self._newest:
            return
        if self._writing.is_due:
            with self._writing.timed(), self._copying.timed():
                self._copy = snapshot()
                self._save()
        elif self._copying.is_due:
            with self._copying.timed():
                self._copy = snapshot()

    def keep(self, state: TrainingState) -> None:
        """Keep a state, unless it is older than what there is."""
        if state.progress is not None and state.progress.n_iter > self._newest:
            self._copy = state

    def newer_than(self, n_iter: int) -> TrainingState | None:
        """Return the newest state, if it is of a later epoch than `n_iter`."""
        if self._newest <= n_iter:
            return None
        if self._copy is not None:
            return self._copy
        # Whoever damaged it meanwhile, the fit can go on from an older state.
        with suppress(CheckpointError):
            return self._file.load()
        return None

    def end(self, outcome: object) -> None:
        """Note how training has ended: unless interrupted, nothing more is written."""
        if outcome is not Outcome.INTERRUPTED:
            self._copy, self._has_ended = None, True

    def remove(self) -> None:
        """Remove the file, if the fit has ended and does not need it any more."""
        if not self._has_ended:
            return
        try:
            self._file.remove()
        # It says all: what is there now is not of this fit, and stays.
        except CheckpointError as error:
            warnings.warn(str(error), stacklevel=STACKLEVEL)
        # What file systems raise, each decides; and the fit itself is well.
        except Exception as error:
            warnings.warn(
                f"the checkpoint {self._file} could not be removed: {error}. The fit "
                f"that it is of has ended: remove it.",
                stacklevel=STACKLEVEL,
            )

    def close(self) -> None:
        """Write what the file does not have yet of a fit that has ended early."""
        if self._copy is not None:
            self._save(is_last=True)

    @property
    def advice(self) -> str | None:
        """How to go on with a fit that has ended early, if there is a file."""
        if self.n_iter is None or self._has_ended:
            return None
        return (
            f"{self._file} has its state after {self._position}: fit with the same "
            f"arguments resumes from there."
        )

    def _save(self, is_last: bool = False) -> None:
        assert self._copy is not None
        try:
            self._file.save(self._copy)
        # As in `remove`.
        except Exception as error:
            kind = type(error), getattr(error, "errno", None)
            # Once: the next file may have room again. But nothing comes after the last.
            if is_last or kind not in self._failures:
                then = "The fit goes on, and tries again later."
                if is_last:
                    then = self._what_is_lost(self._copy)
                why = str(error).rstrip(".")
                warnings.warn(
                    f"the checkpoint {self._file} could not be written: {why}. {then}",
                    stacklevel=STACKLEVEL,
                )
            self._failures.add(kind)
            return
        self._note_file(self._copy)
        self._copy = None
        self._failures.clear()

    def _note_file(self, state: TrainingState) -> None:
        """Note which state the file has."""
        self.n_iter, self._position = state.progress.n_iter, _position_of(state)

    def _what_is_lost(self, last: TrainingState) -> str:
        """Return what a fit that ends early loses if its last state is not written."""
        there = f"has that after {self._position}"
        if self.n_iter is None:
            there = "is not there"
        return (
            f"The fit has ended, and its state after {_position_of(last)} is lost: the "
            f"file {there}."
        )


def _position_of(state: TrainingState) -> str:
    """Return how far training has come, in words."""
    is_lbfgs = isinstance(state.progress, LbfgsProgress)
    return f"{'iteration' if is_lbfgs else 'epoch'} {state.progress.n_iter}"


@contextmanager
def checkpointing(
    location: str | os.PathLike[str] | None, job: TrainingJob, dataset: BaseDataset
) -> Iterator[Checkpointing | None]:
    """Yield what keeps the checkpoint of a fit; None if none is wanted.

    Parameters
    ----------
    location : str, path or None
        The directory, or URL of one.
    job : TrainingJob
        What is trained, before it is split.
    dataset : BaseDataset
        All rows, prepared.

    Raises
    ------
    ValueError
        If there can be no files at `location`.
    """
    if location is None:
        yield None
        return
    # Imports fsspec, which most fits do without.
    from skdistmlp.checkpoints.store import CheckpointFile

    name = fingerprint(job, dataset)
    file = CheckpointFile(location, job, dataset.n_rows, name)
    kept = Checkpointing(file, checkpoint_interval_s(), job.log)
    try:
        yield kept
    except BaseException as error:
        kept.close()
        if isinstance(error, ClusterError | KeyboardInterrupt) and kept.advice:
            error.add_note(kept.advice)
        raise
    kept.close()
