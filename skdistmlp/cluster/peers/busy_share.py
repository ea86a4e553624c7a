"""How much of an exchange keeps the processor busy, so that nothing hides behind it.

Bytes on a link cost the processor nothing where the network card cuts them into packets
and puts them together. Where the kernel does, as for virtual machines and containers,
the thread that computes may be interrupted for nearly all of that time.
"""

import time
from collections.abc import Sequence
from statistics import median

import numpy as np

from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.communicators import Collectives, Exchange
from skdistmlp.parallel.split import consecutive_ranges

TYPICAL_S = 3e-3
"""Seconds of the exchanges that are timed, about: of 1 ms, the share varied by 0.3, and
of 9 ms no less than of 4."""

MAX_EMPTY_S = 2e-3
"""Seconds of an empty exchange from which nothing is timed: with such a latency, the
processor waits nearly all of the time, and each exchange would take long."""

MIN_S = 1e-3
"""Seconds of exchanges that are too short to tell: of the largest ones, where a busy
machine left no time for larger ones, or the link is that fast."""

N_REPEATS = 3
"""Times that they are timed, of which the median counts."""

SHAPE = 64, 512
"""Of the matrix that is multiplied meanwhile, again and again, with a square one: 34
MFLOP, about a block of `skdistmlp.parallel.overlap`. An exchange advances between two
of them, as it does there."""

ROWS = 16
"""Rows of the arrays that are exchanged, since columns have to be put in order."""

FLOAT_BYTES = 4


def measure_busy_share(
    group: Collectives, sizes: Sequence[float], seconds: Sequence[float]
) -> float | None:
    """Return the part of an exchange in which the processor is busy with it.

    An exchange is timed alone; so are products that take about as long; then both at
    once. If that takes as long as one after the other, the processor was busy all the
    time; if as long as one of them, never.

    Parameters
    ----------
    group : Collectives
        Of all that take part; they do the same at the same time, and find the same.
    sizes, seconds : sequence of float
        Bytes that each sent in exchanges before, and what these took, in ascending
        order: see `skdistmlp.cluster.peers.probe.ExchangeTimes`.

    Returns
    -------
    float or None
        From 0 to 1. None if it cannot be told: with nobody to exchange with, or because
        an empty exchange takes long, or the largest a short time, or most exchanges
        were held up.
    """
    if group.n_ranks == 1 or not sizes:
        return None
    n_bytes = np.interp(TYPICAL_S, np.maximum.accumulate(seconds), sizes)
    # The first decides, also whether: the others may have found other seconds.
    told = np.array([float(seconds[0] <= MAX_EMPTY_S), n_bytes])
    is_measured, n_bytes = group.broadcast(told, 0)
    if not is_measured:
        return None
    timing = _Timing(group, float(n_bytes))
    found = [timing.busy_share() for _ in range(N_REPEATS)]
    # All know the same. Of one that was held up, too few products were computed: all of
    # them might have been hidden, however busy the processor was.
    shares = [share for s, share in found if MIN_S <= s <= 2 * TYPICAL_S]
    return median(shares) if len(shares) > 1 else None


class _Products:
    """Products that are computed while something travels."""

    def __init__(self) -> None:
        n_rows, width = SHAPE
        self._inputs = np.ones((n_rows, width), np.float32)
        self._coef = np.ones((width, width), np.float32)
        self._out = np.empty((n_rows, width), np.float32)
        # The first allocates what BLAS needs.
        self.compute(1)

    def compute(self, times: int, exchange: Exchange | None = None) -> None:
        """Compute, and advance an exchange between two products."""
        for _ in range(times):
            np.matmul(self._inputs, self._coef, out=self._out)
            if exchange is not None:
                exchange.advance()

    def seconds(self, times: int) -> float:
        """Return the seconds that products take alone."""
        begun = time.perf_counter()
        self.compute(times)
        return time.perf_counter() - begun


class _Timing:
    """Exchanges of a size, alone and while something is computed.

    Parameters
    ----------
    group : Collectives
        Of all that take part.
    n_bytes : float
        Bytes that each sends.
    """

    def __init__(self, group: Collectives, n_bytes: float) -> None:
        self._group = group
        width = max(1, int(n_bytes) // (ROWS * FLOAT_BYTES * (group.n_ranks - 1)))
        self._ranges = consecutive_ranges([width] * group.n_ranks)
        self._own = np.zeros((ROWS, width), np.float32)
        self._whole = np.zeros((ROWS, width * group.n_ranks), np.float32)
        self._products = _Products()
        # All compute as many, and the slowest about as long as the exchange takes.
        self._product_s = self._slowest(
            median(self._products.seconds(1) for _ in range(N_REPEATS))
        )

    def busy_share(self) -> tuple[float, float]:
        """Time both once; return what the exchange takes alone, and the share.

        They are the same for all.
        """
        exchange_s = self._slowest(self._exchange_s(0))
        # One that was held up is not to hold up the others for as long again.
        usual_s = min(exchange_s, 2 * TYPICAL_S)
        n_products = max(1, round(usual_s / self._product_s))
        computed_s = self._slowest(self._products.seconds(n_products))
        together_s = self._slowest(self._exchange_s(n_products))
        hidden_s = exchange_s + computed_s - together_s
        free = hidden_s / min(exchange_s, computed_s)
        return exchange_s, 1 - min(1.0, max(0.0, free))

    def _exchange_s(self, n_products: int) -> float:
        """Return the seconds of an exchange, and of products meanwhile."""
        begun = time.perf_counter()
        exchange = self._group.begin_all_gather(self._own, self._ranges, 0, self._whole)
        self._products.compute(n_products, exchange)
        exchange.finish()
        return time.perf_counter() - begun

    def _slowest(self, seconds: float) -> float:
        """Return the seconds of the slowest; all begin together what comes next."""
        whole: FloatArray = np.empty((1, self._group.n_ranks))
        ranges = consecutive_ranges([1] * self._group.n_ranks)
        self._group.all_gather(np.array([[seconds]]), ranges, 0, whole)
        return float(whole.max())
