"""How often to do what takes time from training."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """Spaces out an action, so that it takes at most a share of the time.

    Parameters
    ----------
    max_share : float
        The share; with 0 the action is never due.
    pause_s : float
        Seconds between two actions, at least.
    expected_s : float
        Seconds that the first one is expected to take.
    """

    def __init__(
        self, max_share: float, pause_s: float = 0.0, expected_s: float = 0.0
    ) -> None:
        self._max_share = max_share
        self._pause_s = pause_s
        self._due_at = time.monotonic() + self._wait_s(expected_s)

    @property
    def is_due(self) -> bool:
        """Whether the time since the last one is worth what another will take."""
        return time.monotonic() >= self._due_at

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure how long an action takes; the next is due accordingly later."""
        begun = time.monotonic()
        yield
        ended = time.monotonic()
        self._due_at = ended + self._wait_s(ended - begun)

    def _wait_s(self, took_s: float) -> float:
        if self._max_share == 0:
            return math.inf
        return max(self._pause_s, took_s / self._max_share)
