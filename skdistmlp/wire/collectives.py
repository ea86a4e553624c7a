"""Collectives over sockets: what is sent, and what is made of what comes.

They exchange directly, pair by pair, all pairs and both directions at once, on
non-blocking sockets: nobody waits for its turn, so no two can wait for each other.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.communicators import (
    Exchange,
    Finished,
    sum_in_order,
    sums_in_parts,
)
from skdistmlp.parallel.split import NeuronRange, split_neurons
from skdistmlp.wire.connections import Connections, PendingExchange
from skdistmlp.wire.packet import Operation


class SocketCollectives:
    """Exchanges with some of the processes of a run: a `Collectives`.

    Parameters
    ----------
    connections : Connections
        Those of this process.
    ranks : sequence of int
        Who takes part, this process included: their ranks in the run, in order.
    relays_stops : bool
        Whether packets carry the stops that others have asked for; see `Connections`.
    """

    def __init__(
        self,
        connections: Connections,
        ranks: Sequence[int],
        relays_stops: bool = False,
    ) -> None:
        self.rank = list(ranks).index(connections.rank)
        self.n_ranks = len(ranks)
        self._connections = connections
        self._relays_stops = relays_stops
        # The place of each other among those that take part, by rank in the run.
        self._places = {
            peer: place for place, peer in enumerate(ranks) if place != self.rank
        }
        # Memory that no exchange uses: for sending or receiving, operation, label.
        self._free: dict[tuple[str, int, int], list[Room]] = {}

    def begin_all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> Exchange:
        """Begin to put the columns of all side by side; see `Collectives`."""
        return self._begin_gather(Operation.ALL_GATHER, part, ranges, label, out)

    def begin_reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> Exchange:
        """Begin to sum and keep this process's columns; see `Collectives`."""
        return self._begin_scatter(Operation.REDUCE_SCATTER, piece, ranges, label, out)

    def all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Put the columns of all side by side; see `Collectives`."""
        return self.begin_all_gather(part, ranges, label, out).finish()

    def reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Sum and keep this process's columns; see `Collectives`."""
        return self.begin_reduce_scatter(piece, ranges, label, out).finish()

    def all_reduce(
        self, piece: FloatArray, label: int, out: FloatArray | None
    ) -> FloatArray:
        """Sum the pieces of all; see `Collectives`.

        Large ones of many processes in two exchanges, each of which sums a part.
        """
        if not self._places:
            return piece
        if sums_in_parts(self.n_ranks, piece.nbytes):
            return self._reduce_in_parts(piece, label, out)
        operation = Operation.ALL_REDUCE
        shape = (1, piece.size) if piece.ndim == 1 else piece.shape
        room = self._borrow("in", operation, label, piece.dtype)
        received = room.cut(dict.fromkeys(self._places, shape))
        self._begin(operation, label, self._to_all(piece), received).finish()
        pieces = {p: array.reshape(piece.shape) for p, array in received.items()}
        total = sum_in_order(self._in_order(pieces, piece), out)
        room.give_back()
        return total

    def broadcast(self, array: FloatArray, label: int) -> FloatArray:
        """Overwrite `array` with that of the first; see `Collectives`."""
        if self.rank == 0:
            self._begin(Operation.BROADCAST, label, self._to_all(array), {}).finish()
        else:
            first = min(self._places, key=self._places.__getitem__)
            self._begin(Operation.BROADCAST, label, {}, {first: array}).finish()
        return array

    def _begin_gather(
        self,
        operation: Operation,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> Exchange:
        if not self._places:
            return Finished(part)
        n_rows = len(part)
        whole = np.empty((n_rows, ranges[-1].stop), part.dtype) if out is None else out
        columns = {peer: ranges[place].columns for peer, place in self._places.items()}
        # Of one row, the columns of each are contiguous: they are received in place.
        in_place = n_rows == 1 and whole.flags.c_contiguous
        room = self._borrow("in", operation, label, part.dtype)
        if in_place:
            received = {peer: whole[:, where] for peer, where in columns.items()}
        else:
            received = room.cut(
                {
                    peer: (n_rows, where.stop - where.start)
                    for peer, where in columns.items()
                }
            )
        outgoing = None
        if not part.flags.c_contiguous:
            outgoing = self._borrow("out", operation, label, part.dtype)
            (copied,) = outgoing.cut({self.rank: part.shape}).values()
            np.copyto(copied, part)
        sent = dict.fromkeys(self._places, part if outgoing is None else copied)
        pending = self._begin(operation, label, sent, received)

        def result() -> FloatArray:
            if outgoing is not None:
                outgoing.give_back()
            if not in_place:
                for peer, where in columns.items():
                    whole[:, where] = received[peer]
            room.give_back()
            own = whole[:, ranges[self.rank].columns]
            if not np.may_share_memory(own, part):
                own[...] = part
            return whole

        return SocketExchange(pending, result)

    def _begin_scatter(
        self,
        operation: Operation,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> Exchange:
        if not self._places:
            return Finished(piece)
        n_rows, own = len(piece), ranges[self.rank]
        in_place = n_rows == 1 and piece.flags.c_contiguous
        outgoing = self._borrow("out", operation, label, piece.dtype)
        incoming = self._borrow("in", operation, label, piece.dtype)
        sent = {
            peer: piece[:, ranges[place].columns]
            for peer, place in self._places.items()
        }
        if not in_place:
            copies = outgoing.cut({peer: part.shape for peer, part in sent.items()})
            for peer, part in sent.items():
                np.copyto(copies[peer], part)
            sent = copies
        received = incoming.cut(dict.fromkeys(self._places, (n_rows, len(own))))
        pending = self._begin(operation, label, sent, received)

        def result() -> FloatArray:
            pieces = self._in_order(received, piece[:, own.columns])
            total = sum_in_order(pieces, out)
            outgoing.give_back()
            incoming.give_back()
            return total

        return SocketExchange(pending, result)

    def _reduce_in_parts(
        self, piece: FloatArray, label: int, out: FloatArray | None
    ) -> FloatArray:
        """Sum a part of all pieces, in the order of ranks too, and gather the sums."""
        total = np.empty_like(piece, order="C") if out is None else out
        whole = total if total.flags.c_contiguous else np.empty_like(total, order="C")
        flat = whole.reshape(1, -1)
        parts = split_neurons(piece.size, [1.0] * self.n_ranks)
        own = flat[:, parts[self.rank].columns]
        operation = Operation.ALL_REDUCE
        mine = np.ascontiguousarray(piece).reshape(1, -1)
        own = self._begin_scatter(operation, mine, parts, label, own).finish()
        self._begin_gather(operation, own, parts, label, flat).finish()
        if whole is not total:
            np.copyto(total, whole)
        return total

    def _to_all(self, array: FloatArray) -> dict[int, FloatArray]:
        return dict.fromkeys(self._places, np.ascontiguousarray(array))

    def _in_order(
        self, received: Mapping[int, FloatArray], own: FloatArray
    ) -> list[FloatArray]:
        """Return what all have, in the order of their ranks."""
        pieces = {place: received[peer] for peer, place in self._places.items()}
        pieces[self.rank] = own
        return [pieces[place] for place in range(self.n_ranks)]

    def _begin(
        self,
        operation: Operation,
        label: int,
        sent: Mapping[int, FloatArray],
        received: Mapping[int, FloatArray],
    ) -> PendingExchange:
        return self._connections.begin(
            operation, label, sent, received, relay=self._relays_stops
        )

    def _borrow(
        self,
        use: str,
        operation: Operation,
        label: int,
        dtype: np.dtype[np.floating],
    ) -> "Room":
        """Return room for an exchange; others with the same label may be under way."""
        free = self._free.setdefault((use, int(operation), label), [])
        room = free.pop() if free else Room(free)
        room.dtype = dtype
        return room


class Room:
    """Contiguous memory for what one exchange sends, or receives.

    It is allocated at its first use, and lent to the exchange with the same label of
    each step.

    Parameters
    ----------
    free : list of Room
        Where it is put when the exchange has ended.

    Attributes
    ----------
    dtype : dtype
        Of the arrays that are cut from it.
    """

    def __init__(self, free: "list[Room]") -> None:
        self.dtype: np.dtype[np.floating] = np.dtype(np.float64)
        self._free = free
        self._flat: FloatArray = np.empty(0)
        self._last_cut: tuple[Any, ...] = ()
        self._arrays: dict[int, FloatArray] = {}

    def cut(self, shapes: Mapping[int, tuple[int, ...]]) -> dict[int, FloatArray]:
        """Return an array of each shape, by the rank of the peer that it is for."""
        cut = shapes, self.dtype
        if cut == self._last_cut:
            # Most steps have the same number of rows.
            return self._arrays
        n_numbers = sum(map(math.prod, shapes.values()))
        if self._flat.size < n_numbers or self._flat.dtype != self.dtype:
            self._flat = np.empty(n_numbers, self.dtype)
        self._last_cut, self._arrays, start = cut, {}, 0
        for peer, shape in shapes.items():
            stop = start + math.prod(shape)
            self._arrays[peer] = self._flat[start:stop].reshape(shape)
            start = stop
        return self._arrays

    def give_back(self) -> None:
        """Let the next exchange use this memory."""
        self._free.append(self)


class SocketExchange:
    """An `Exchange` over sockets."""

    def __init__(
        self, pending: PendingExchange, result: Callable[[], FloatArray]
    ) -> None:
        self._pending = pending
        self._result = result

    def advance(self) -> None:
        """Send and receive what can be without waiting."""
        self._pending.advance()

    def finish(self) -> FloatArray:
        """Wait for the rest, and return the result."""
        self._pending.finish()
        return self._result()
