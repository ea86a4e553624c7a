"""A communicator over sockets: every process is connected to every other.

They exchange directly, pair by pair, all pairs and both directions at once, on
non-blocking sockets: nobody waits for its turn, so no two can wait for each other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.communicators import (
    Collectives,
    Exchange,
    Finished,
    SingleProcess,
    sum_in_order,
)
from skdistmlp.parallel.grid import Axis, Grid
from skdistmlp.parallel.split import NeuronRange
from skdistmlp.wire.connections import Connections, PendingExchange
from skdistmlp.wire.packet import Operation
from skdistmlp.wire.transfers import Link


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
        self._free: dict[tuple[Any, ...], list[FloatArray]] = {}

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
        """Sum the pieces of all; see `Collectives`."""
        if not self._places:
            return piece
        operation = Operation.ALL_REDUCE
        shape = (1, piece.size) if piece.ndim == 1 else piece.shape
        rooms = self._rooms("in", operation, label, piece.dtype)
        received = {peer: rooms.take(peer, *shape) for peer in self._places}
        self._begin(operation, label, self._to_all(piece), received).finish()
        pieces = {p: array.reshape(piece.shape) for p, array in received.items()}
        total = sum_in_order(self._in_order(pieces, piece), out)
        rooms.give_back()
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
        rooms = self._rooms("in", operation, label, part.dtype)
        received = {
            peer: whole[:, where]
            if in_place
            else rooms.take(peer, n_rows, where.stop - where.start)
            for peer, where in columns.items()
        }
        pending = self._begin(operation, label, self._to_all(part), received)

        def result() -> FloatArray:
            if not in_place:
                for peer, where in columns.items():
                    whole[:, where] = received[peer]
            rooms.give_back()
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
        outgoing = self._rooms("out", operation, label, piece.dtype)
        incoming = self._rooms("in", operation, label, piece.dtype)
        sent, received = {}, {}
        for peer, place in self._places.items():
            sent[peer] = columns = piece[:, ranges[place].columns]
            if not in_place:
                sent[peer] = outgoing.take(peer, *columns.shape)
                np.copyto(sent[peer], columns)
            received[peer] = incoming.take(peer, n_rows, len(own))
        pending = self._begin(operation, label, sent, received)

        def result() -> FloatArray:
            pieces = self._in_order(received, piece[:, own.columns])
            total = sum_in_order(pieces, out)
            outgoing.give_back()
            incoming.give_back()
            return total

        return SocketExchange(pending, result)

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

    def _rooms(
        self,
        use: str,
        operation: Operation,
        label: int,
        dtype: np.dtype[np.floating],
    ) -> "Rooms":
        return Rooms(self._free, (use, operation, label, dtype))


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


class Rooms:
    """Contiguous memory that one exchange borrows: others may be under way.

    Parameters
    ----------
    free : dict
        Memory that nobody uses; shared by all exchanges, and allocated at the first.
    use : tuple
        For what: memory of the same use has the same size at every step.
    """

    def __init__(
        self, free: dict[tuple[Any, ...], list[FloatArray]], use: tuple[Any, ...]
    ) -> None:
        self._free = free
        self._use = use
        self._taken: list[tuple[int, FloatArray]] = []

    def take(self, peer: int, n_rows: int, n_columns: int) -> FloatArray:
        """Return an array for what is sent to a peer, or received from it."""
        size, free = n_rows * n_columns, self._free.get((peer, self._use))
        flat = free.pop() if free else None
        if flat is None or flat.size < size:
            flat = np.empty(size, self._use[-1])
        self._taken.append((peer, flat))
        return flat[:size].reshape(n_rows, n_columns)

    def give_back(self) -> None:
        """Let others use what was taken."""
        for peer, flat in self._taken:
            self._free.setdefault((peer, self._use), []).append(flat)


class SocketCommunicator(SocketCollectives):
    """One process's end of the connections to all others: a `Communicator`.

    Parameters
    ----------
    rank : int
        Rank of this process.
    links : mapping of int to Link
        Connections to all others, by their rank.
    run : bytes
        Sixteen bytes that name the fit.
    timeout_s : float
        How long an exchange waits for the slowest process.
    is_cancelled : callable
        Says whether to stop waiting at once.
    grid : Grid, optional
        Who exchanges with whom; None for the shards of one replica.
    """

    def __init__(
        self,
        rank: int,
        links: Mapping[int, Link],
        run: bytes,
        timeout_s: float,
        is_cancelled: Callable[[], bool] = lambda: False,
        grid: Grid | None = None,
    ) -> None:
        grid = Grid(len(links) + 1) if grid is None else grid
        # Where all exchange with all, everyone is told directly.
        relays = grid.n_shards > 1 and grid.n_replicas > 1
        connections = Connections(rank, links, run, timeout_s, is_cancelled, relays)
        super().__init__(connections, range(grid.n_ranks))
        # None for this communicator, which would be in a cycle: its buffers would
        # then be held until Python collects garbage.
        self._axes: dict[Axis, Collectives | None] = {
            "neurons": None if grid.n_replicas == 1 else SingleProcess(),
            "replicas": None if grid.n_shards == 1 else SingleProcess(),
        }
        if relays:
            self._axes = {
                "neurons": SocketCollectives(connections, grid.along("neurons", rank)),
                "replicas": SocketCollectives(
                    connections, grid.along("replicas", rank), relays_stops=True
                ),
            }

    @property
    def exchanging_s(self) -> float:
        """Seconds spent in exchanges so far, most of them waiting for slower ones."""
        return self._connections.exchanging_s

    def along(self, axis: Axis) -> Collectives:
        """Return the exchange along one axis; see `Communicator`."""
        collectives = self._axes[axis]
        return self if collectives is None else collectives

    def begin_step(self) -> None:
        """Count a step; end the training here if anyone asked for it."""
        self._connections.begin_step()

    def request_stop(self) -> None:
        """Ask everyone to stop after the step that begins next; from any thread."""
        self._connections.request_stop()

    def cancel_if(self, is_cancelled: Callable[[], bool]) -> None:
        """Replace the function that says whether to stop waiting."""
        self._connections.is_cancelled = is_cancelled

    def wait_for_all(self) -> None:
        """Wait until all are here, however long that takes."""
        self._connections.wait_for_all()

    def close(self) -> None:
        """Close the connections; whoever waits for this process learns it at once."""
        self._connections.close()
