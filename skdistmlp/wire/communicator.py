"""A communicator over sockets: every process is connected to every other."""

from collections.abc import Callable, Mapping, Sequence

from skdistmlp.parallel.communicators import Collectives, SingleProcess
from skdistmlp.parallel.grid import Axis, Grid
from skdistmlp.wire.collectives import SocketCollectives
from skdistmlp.wire.connections import Connections
from skdistmlp.wire.transfers import Link


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

    def among(self, ranks: Sequence[int]) -> SocketCollectives:
        """Return the exchange among some of the processes.

        Parameters
        ----------
        ranks : sequence of int
            Their ranks, in order, this process's among them.
        """
        return SocketCollectives(self._connections, ranks)

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
