"""One process's connections to the others of its run, and where the training stands."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from skdistmlp.exceptions import ExchangeError
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.communicators import Label, StopRequested
from skdistmlp.wire.packet import DTYPES, STOP, Header, Operation
from skdistmlp.wire.transfers import (
    Link,
    Receive,
    Send,
    advance,
    advance_sending,
    carry_out,
)

EXCHANGES_OF_LAYERS = {
    Operation.ALL_GATHER: "the forward exchange",
    Operation.REDUCE_SCATTER: "the backward exchange",
    Operation.ALL_REDUCE: "the sum",
    Operation.BROADCAST: "the broadcast",
}
"""What messages call the exchanges whose label is the number of a layer."""

OTHER_EXCHANGES: dict[int, str] = {
    Label.ROUND: "the wait for all shards",
    Label.DECISION: "what shard 0 decides",
    Label.PARAMETERS: "the exchange of parameters",
    Label.LOSS: "the sum of the losses",
    Label.ROW_LOSS: "the sum of the losses",
    Label.GRADIENT: "the exchange of gradients",
    Label.GRADIENT_NORM: "the sum of the gradient's norm",
    Label.OUTPUTS: "the exchange of outputs",
    Label.AVERAGE: "the exchange of averaged parameters",
    Label.FEATURES: "the exchange of features",
    Label.FEATURE_COUNTS: "the exchange of features",
    Label.FEATURE_COLUMNS: "the exchange of features",
}
"""What messages call the others, by their label."""


class Connections:
    """Connections to all other processes of a run, and the packets that they carry.

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
    relays_stops : bool
        Whether stops reach everyone in two exchanges, along one axis and the other.

    Attributes
    ----------
    is_cancelled : callable
        As above; may be replaced.
    exchanging_s : float
        Seconds spent in exchanges so far, most of them waiting for slower processes.
    """

    def __init__(
        self,
        rank: int,
        links: Mapping[int, Link],
        run: bytes,
        timeout_s: float,
        is_cancelled: Callable[[], bool],
        relays_stops: bool = False,
    ) -> None:
        self.rank = rank
        self.links = dict(sorted(links.items()))
        self.is_cancelled = is_cancelled
        self.exchanging_s = 0.0
        self._run = run
        self._timeout_s = timeout_s
        self._relays_stops = relays_stops
        # Always 0: no fit is resumed yet after a lost worker (see `Header`).
        self._generation = 0
        self._step = 0
        self._stop_wanted = False
        self._flags = 0
        self._flags_seen = 0
        self._flags_agreed = 0
        # The message of the error that ended the use of these connections.
        self._failure: str | None = None

    def request_stop(self) -> None:
        """Ask everyone to stop after the step that begins next; from any thread.

        The training thread reads the flag once per step, in `begin_step`, so one that
        is set in the middle of a step travels with the next.
        """
        self._stop_wanted = True

    def begin_step(self) -> None:
        """Count a step; end the training here if anyone asked for it."""
        if not self.links:
            self._flags_agreed = self._flags_seen
        if self._flags_agreed & STOP:
            raise StopRequested
        if self.is_cancelled():
            raise ExchangeError("cancelled because the fit ended")
        self._step += 1
        # All packets of a step carry the same flags, so that everyone has seen the same
        # after its exchanges. Only what they have carried counts: a step may have none,
        # and the next one then carries the flag.
        self._flags = self._flags_seen = STOP if self._stop_wanted else 0

    def begin(
        self,
        operation: Operation,
        label: int,
        sent: Mapping[int, FloatArray],
        received: Mapping[int, FloatArray],
        *,
        relay: bool = False,
    ) -> "PendingExchange":
        """Begin to send and receive one array per peer, all at once.

        The arrays belong to the exchange until it is finished. Others may be begun
        before that, by all processes in the same order.

        With `relay`, the packets carry all stops seen in this step. Those
        of all shards of a replica have seen the same by then, so afterwards everyone
        has: whoever wanted a stop told its replica, which told all others.
        """
        self._raise_again()
        flags = self._flags_seen if relay else self._flags
        name = OTHER_EXCHANGES.get(label)
        name = name or f"{EXCHANGES_OF_LAYERS[operation]} of layer {label}"
        sends, receives = [], []
        for peer, array in sent.items():
            header = self._header(operation, label, self.rank, array, flags)
            views = [memoryview(header.pack()), *_bytes_of(array)]
            send = Send(self.links[peer], views, name)
            send.link.sending.append(send)
            sends.append(send)
        for peer, array in received.items():
            expected = self._header(operation, label, peer, array, flags)
            receive = Receive(self.links[peer], expected, _bytes_of(array), name)
            receive.link.receiving.append(receive)
            receives.append(receive)
        exchange = PendingExchange(self, name, self._step, relay, sends, receives)
        begun = time.monotonic()
        try:
            # Receiving waits for `advance`: seldom has a peer been quicker.
            advance_sending([send.link for send in sends])
        except ExchangeError as error:
            self._fail(error)
            raise
        self.exchanging_s += time.monotonic() - begun
        return exchange

    def advance(self) -> None:
        """Send and receive what can be without waiting, of all exchanges."""
        self._raise_again()
        begun = time.monotonic()
        try:
            advance(self.links.values())
        except ExchangeError as error:
            self._fail(error)
            raise
        self.exchanging_s += time.monotonic() - begun

    def finish(self, exchange: "PendingExchange", timeout_s: float | None) -> None:
        """Wait until all of an exchange has been sent and received."""
        self._raise_again()
        begun = time.monotonic()
        try:
            carry_out(
                [*exchange.sends, *exchange.receives],
                self.links.values(),
                timeout_s or self._timeout_s,
                self.is_cancelled,
                exchange.name,
            )
        except ExchangeError as error:
            self._fail(error)
            raise
        self.exchanging_s += time.monotonic() - begun
        if exchange.step != self._step:
            # Begun in an earlier step, whose flags everyone has left behind. Whoever
            # wanted a stop says so in the packets of this step too.
            return
        # Now, not when they arrived: all processes finish the same exchanges before
        # they begin another, so all have seen the same.
        for receive in exchange.receives:
            self._flags_seen |= receive.flags
        if exchange.relay or not self._relays_stops:
            self._flags_agreed = self._flags_seen

    def _raise_again(self) -> None:
        """Raise the error after which the connections cannot be used any more.

        A packet that was cut off would be taken for the beginning of the next.
        """
        if self._failure is not None:
            raise ExchangeError(self._failure)

    def _fail(self, error: ExchangeError) -> None:
        """Remember an error, and let go of the arrays of all exchanges."""
        self._failure = str(error)
        for link in self.links.values():
            link.drop_all()

    def wait_for_all(self) -> None:
        """Wait until all are here, however long that takes.

        One of them may be queued behind other work on its worker.
        """
        sent = dict.fromkeys(self.links, np.zeros(1))
        received = {peer: np.empty(1) for peer in self.links}
        self.begin(Operation.READY, Label.ROUND, sent, received).finish(math.inf)

    def close(self) -> None:
        """Close the connections; whoever waits for this process learns it at once."""
        for link in self.links.values():
            link.socket.close()
            link.drop_all()

    def _header(
        self,
        operation: Operation,
        label: int,
        sender: int,
        array: FloatArray,
        flags: int,
    ) -> Header:
        return Header(
            self._run,
            self._generation,
            self._step,
            operation,
            label,
            sender,
            DTYPES.index(array.dtype),
            *_two_dimensions(array),
            flags,
        )


@dataclass(slots=True)
class PendingExchange:
    """An exchange that has begun, whose packets are in the queues of their links.

    Attributes
    ----------
    connections : Connections
        Those that it uses.
    name : str
        What messages call it.
    step : int
        In which it was begun.
    relay : bool
        Whether its packets carry the stops that others have asked for.
    sends, receives : list of Send, list of Receive
        Its packets.
    """

    connections: Connections
    name: str
    step: int
    relay: bool
    sends: list[Send]
    receives: list[Receive]

    def advance(self) -> None:
        """Send and receive what can be without waiting."""
        self.connections.advance()

    def finish(self, timeout_s: float | None = None) -> None:
        """Wait until all has been sent and received.

        Parameters
        ----------
        timeout_s : float, optional
            How long to wait for the slowest process; by default, as the connections.

        Raises
        ------
        ExchangeError
            If a process is gone, silent, or sends something else; or if this process
            was told to stop waiting.
        """
        self.connections.finish(self, timeout_s)


def _two_dimensions(array: FloatArray) -> tuple[int, int]:
    return (1, array.size) if array.ndim == 1 else array.shape


def _bytes_of(array: FloatArray) -> list[memoryview]:
    """Return the bytes of a C-contiguous array; nothing to send if it is empty."""
    return [array.data.cast("B")] if array.size else []
