"""How fast processes compute and exchange, as measured or as somebody assumes."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType
from typing import Self

from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.rates import DASK_BYTE_S, REFERENCE, Rates

TYPICAL_BYTES = 512_000
"""Of exchanges by which links are compared: what a layer of 1,000 neurons sends for a
mini-batch of 128 rows of float32. Rates of several Gbit/s can be told apart by it, and
latencies still count."""

PAYLOAD = 1448 / 1538
"""Share of a link's rate that carries arrays: bytes of data in a packet of TCP, of
those that it occupies on Ethernet, with headers, preamble and gap."""


@dataclass(frozen=True)
class Speed:
    """How fast one process computes.

    Attributes
    ----------
    rates : Rates
        Of a thread.
    corrections : mapping of Grid to float
        What steps without exchanges took it on some grids, with all its threads, over
        what the rates say of them. Empty if nothing was measured.
    """

    rates: Rates
    corrections: Mapping[Grid, float] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def correction(self, grid: Grid) -> float:
        """Return by what a step on a grid is slower than the rates say.

        From a single process to the most shards that were measured, and to the most
        replicas, the ratio changes along a line in logarithms.
        """
        if grid in self.corrections:
            return self.corrections[grid]
        whole = ratio = self.corrections.get(Grid(1), 1.0)
        for n_parts, (most, measured) in zip(
            (grid.n_shards, grid.n_replicas), self._of_most_parts, strict=True
        ):
            if n_parts > 1 and most > 1:
                part = min(1.0, math.log(n_parts, most))
                ratio *= (measured / whole) ** part
        return ratio

    @cached_property
    def _of_most_parts(self) -> tuple[tuple[int, float], tuple[int, float]]:
        """The most shards and the most replicas that were measured, and their ratios.

        Once: it is asked for of each of a thousand workers on each of a hundred grids.
        """
        measured = self.corrections.items()
        shards = ((g.n_shards, r) for g, r in measured if g.n_replicas == 1)
        replicas = ((g.n_replicas, r) for g, r in measured if g.n_shards == 1)
        return max(shards, default=(1, 1.0)), max(replicas, default=(1, 1.0))


@dataclass(frozen=True)
class Link:
    """How long exchanges take among processes that all send at once.

    Attributes
    ----------
    sizes : tuple of float
        Bytes that each process sends in an exchange, in ascending order, at least two.
    seconds : tuple of float
        What exchanges of these sizes take, including the time in which the processor is
        busy with them. In between they follow straight lines, and beyond the largest
        size the last of these.
    n_others : int
        Number of the other processes in these exchanges.
    here_bits_per_s : float or None
        Rate at which these processes together send arrays to the one that plans, or
        receive them, besides what Dask takes for them. None if it was not measured:
        then as in the largest exchanges.
    busy_share : float or None
        Part of an exchange in which the processor is busy with it, so that nothing is
        computed. None if it was not measured: then as `Rates` say.
    """

    sizes: tuple[float, ...]
    seconds: tuple[float, ...]
    n_others: int = 1
    here_bits_per_s: float | None = None
    busy_share: float | None = None

    @classmethod
    def of_rate(
        cls, bits_per_s: float, rates: Rates, latency_s: float | None = None
    ) -> Self:
        """Return a link of this rate in each direction, between cores of these rates.

        Parameters
        ----------
        bits_per_s : float
            The rate.
        rates : Rates
            Of the processors.
        latency_s : float, optional
            Seconds of an empty exchange; by default, as between processes of one
            machine.
        """
        byte_s = 8 / (PAYLOAD * bits_per_s) + 1 / rates.exchanged_bytes_per_s
        empty_s = latency_s
        if empty_s is None:
            empty_s = rates.round_trip_s / 2 + rates.message_s
        return cls((0.0, 1.0), (empty_s, empty_s + byte_s))

    @classmethod
    def of_timings(
        cls, sizes: Sequence[float], seconds: Sequence[float], n_others: int
    ) -> Self:
        """Return the link on which these exchanges were timed.

        More bytes do not travel faster: where a larger exchange took less, something
        else held up the smaller one, which then counts as fast as the larger one.

        Parameters
        ----------
        sizes : sequence of float
            Bytes, in ascending order, at least two.
        seconds : sequence of float
            Seconds that exchanges of these sizes took.
        n_others : int
            Number of the other processes.
        """
        # From the largest to the smallest.
        least_s = list(accumulate(reversed(seconds), min))[::-1]
        line = list(zip(sizes, least_s, strict=True))
        # Beyond the largest size the last line goes on, which must not be flat: bytes
        # would be free there.
        while len(line) > 2 and line[-2][1] == line[-1][1]:
            del line[-2]
        if line[0][1] == line[-1][1]:
            # Nothing took longer than the fewest bytes: more than the most are taken to
            # need as much for each as these.
            most, most_s = line[-1]
            line.append((2 * most, 2 * most_s))
        of_link, taken_s = zip(*line, strict=True)
        return cls(of_link, taken_s, n_others)

    def exchange_s(self, n_bytes: float, n_messages: int, rates: Rates) -> float:
        """Return the seconds of an exchange.

        Parameters
        ----------
        n_bytes : float
            Bytes that a process sends, or receives if these are more.
        n_messages : int
            In how many messages.
        rates : Rates
            What a message costs the processor, where there are more or fewer than were
            measured.
        """
        more_messages = n_messages - self.n_others
        seconds = self._on_line(n_bytes) + more_messages * rates.message_s
        if more_messages >= 0:
            return seconds
        # Among many, the messages of an exchange may take this machine less time than
        # the rates say: what is left for few of them is not to be too little.
        least_s = rates.round_trip_s / 2 + n_messages * rates.message_s
        return max(seconds, min(self.latency_s, least_s))

    def _on_line(self, n_bytes: float) -> float:
        """Return the seconds of an exchange with as many messages as were measured."""
        at = min(max(1, bisect_right(self.sizes, n_bytes)), len(self.sizes) - 1)
        (x0, x1), (y0, y1) = self.sizes[at - 1 : at + 1], self.seconds[at - 1 : at + 1]
        return y0 + (y1 - y0) * (n_bytes - x0) / (x1 - x0)

    @property
    def slowness(self) -> float:
        """Seconds of a typical exchange, by which links are compared."""
        return self._on_line(TYPICAL_BYTES)

    @property
    def latency_s(self) -> float:
        """Seconds of the smallest exchange that was measured."""
        return self.seconds[0]

    @property
    def bits_per_s(self) -> float:
        """Rate of the largest exchanges, in each direction."""
        (x0, x1), (y0, y1) = self.sizes[-2:], self.seconds[-2:]
        return 8 * (x1 - x0) / (y1 - y0) if y1 > y0 else math.inf


@dataclass(frozen=True)
class Machines:
    """The processes that may train: this one and the workers, and their links.

    Attributes
    ----------
    here : Speed
        Of this process.
    workers : tuple of Speed
        Of each worker, in their order.
    links : tuple of Link
        Of each worker, with others whose links are no slower. An exchange takes as long
        as on the slowest link of those that take part.
    """

    here: Speed
    workers: tuple[Speed, ...]
    links: tuple[Link, ...]

    def link_among(self, places: Iterable[int]) -> Link:
        """Return the link of exchanges among some workers: the slowest of theirs.

        Parameters
        ----------
        places : iterable of int
            Which workers, by their place among all; at least one.
        """
        links = {id(link): link for link in map(self.links.__getitem__, places)}
        return max(links.values(), key=lambda link: link.slowness)

    def of(self, places: Sequence[int]) -> "Machines":
        """Return the machines of which only some workers may train.

        Parameters
        ----------
        places : sequence of int
            Which workers, by their place among all.
        """
        return replace(
            self,
            workers=tuple(self.workers[place] for place in places),
            links=tuple(self.links[place] for place in places),
        )

    def sent_s(self, n_bytes: float, places: Iterable[int] | None = None) -> float:
        """Return the seconds for bytes that Dask sends between here and some workers.

        Parameters
        ----------
        n_bytes : float
            Bytes to or from all of them together.
        places : iterable of int, optional
            Which workers, by their place among all; by default all.
        """
        link = self.link_among(range(len(self.links)) if places is None else places)
        rate = link.here_bits_per_s
        if rate is None:
            rate = link.bits_per_s
        # A link that is not limited takes no time.
        return n_bytes * (DASK_BYTE_S + 8 / rate)


def reference_machines(n_workers: int, bits_per_s: float = 1e9) -> Machines:
    """Return machines as somebody might have them, where nothing was measured."""
    speed, link = Speed(REFERENCE), Link.of_rate(bits_per_s, REFERENCE)
    return Machines(speed, (speed,) * n_workers, (link,) * n_workers)
