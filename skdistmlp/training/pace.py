"""How often to do what takes time from training."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """Spaces out an action, so that all of them together take at most a share of time.

    How long it takes is not known before it was done once. So the first one may come
    before it has its share, and the second one not before both have theirs.

    Parameters
    ----------
    max_share : float
        The share; with 0 the action is never due.
    pause_s : float
        Seconds between two actions, at least.
    first_after_s : float
        Seconds until the first one, at least.
    passed_s : float
        Seconds that have passed already.
    """

    def __init__(
        self,
        max_share: float,
        pause_s: float = 0.0,
        first_after_s: float = 0.0,
        passed_s: float = 0.0,
    ) -> None:
        self._max_share = max_share
        self._pause_s = pause_s
        self._begun_at = time.monotonic() - passed_s
        self._took_s = 0.0
        wait_s = max(pause_s, first_after_s) if max_share > 0 else math.inf
        self._due_at = self._begun_at + wait_s

    @property
    def is_due(self) -> bool:
        """Whether it is time for another one."""
        return time.monotonic() >= self._due_at

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure how long an action takes; the next is due accordingly later."""
        begun = time.monotonic()
        yield
        ended = time.monotonic()
        took_s = ended - begun
        self._took_s += took_s
        self._due_at = max(
            ended + max(self._pause_s, self._earned_after_s(took_s)),
            # With another one that takes as long.
            self._begun_at + self._earned_after_s(self._took_s + took_s),
        )

    def _earned_after_s(self, took_s: float) -> float:
        """Return the seconds of which an action that takes `took_s` is the share."""
        return took_s / self._max_share if self._max_share > 0 else math.inf
