"""What the user is told of a fit that goes on after a loss: nothing is said twice."""

from collections.abc import Callable
from dataclasses import dataclass

from skdistmlp.training.loop import Log


@dataclass
class Announced:
    """What the user has been told of a fit.

    Attributes
    ----------
    n_lines : int
        Lines that have been printed.
    n_lines_copied : int
        Those of them that came before the state from which the fit goes on.
    n_iter : int
        The last epoch or iteration that was reported.
    stops : bool
        Whether training is to stop there.
    """

    n_lines: int = 0
    n_lines_copied: int = 0
    n_iter: int = 0
    stops: bool = False

    def line(self, number: int, text: str, log: Log) -> None:
        """Print the line of this number, unless it was printed before."""
        if number >= self.n_lines:
            self.n_lines = number + 1
            log(text)

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
