"""What the user is told of a fit that goes on after a loss: nothing is said twice."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from skdistmlp.training.loop import Log


@dataclass
class Announced:
    """What the user has been told of a fit.

    Attributes
    ----------
    n_lines : int
        Lines that have been printed.
    lines_of_epochs : dict of int to int
        By epoch, after which a fit may go on, the lines that came before its end.
    n_iter : int
        The last epoch or iteration that was reported.
    stops : bool
        Whether training is to stop there.
    """

    n_lines: int = 0
    lines_of_epochs: dict[int, int] = field(default_factory=dict)
    n_iter: int = 0
    stops: bool = False

    def line(self, number: int, text: str, log: Log) -> None:
        """Print the line of this number, unless it was printed before."""
        if number >= self.n_lines:
            self.n_lines = number + 1
            log(text)

    def note_epoch(self, progress: Any, n_lines: int | None = None) -> None:
        """Note how many lines come before a state, by default all until now."""
        if progress is not None:
            printed = self.n_lines if n_lines is None else n_lines
            self.lines_of_epochs[progress.n_iter] = printed

    def n_lines_before(self, progress: Any) -> int:
        """Return how many lines came before a state that was noted; 0 otherwise.

        Of one that came before this fit, nothing was printed by it.
        """
        if progress is None:
            return 0
        return self.lines_of_epochs.get(progress.n_iter, 0)

    def stops_at(self, progress: Any) -> bool:
        """Return whether training was to stop at this state, when it was reported."""
        return self.stops and progress is not None and progress.n_iter == self.n_iter

    def epoch(self, n_iter: int, report: Callable[[], bool]) -> bool:
        """Report the end of an epoch, unless it was reported before.

        Parameters
        ----------
        n_iter : int
            Number of the epoch.
        report : callable
            Reports it, and says whether to stop training there.

        Returns
        -------
        bool
            Whether to stop there.
        """
        if n_iter <= self.n_iter:
            # It was trained before, and lost.
            return self.stops and n_iter == self.n_iter
        self.stops = report()
        # Not before: a worker may be lost while the parameters are collected.
        self.n_iter = n_iter
        return self.stops
