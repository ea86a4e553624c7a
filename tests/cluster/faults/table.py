"""The table of faults and phases: what strikes whom, and what is to come of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from skdistmlp.exceptions import ClusterError, ExchangeError, WorkerLostError
from tests.cluster.faults.clusters import Scene
from tests.cluster.faults.faults import (
    SLOW_TIMEOUT_S,
    TIMEOUT_S,
    Strike,
    be_slow,
    compute_beside,
    cut_connection_with_scheduler,
    cut_links,
    eat_memory,
    go_on_during_next_fit,
    interrupt,
    interrupt_twice,
    keep_busy,
    kill,
    kill_client,
    kill_scheduler,
    order,
    restart,
    retire,
    spoil_weights,
    stop,
)
from tests.cluster.faults.gates import (
    BACKWARD,
    BETWEEN,
    COLLECTING,
    CONNECTING,
    FORWARD,
    PHASES,
    PLACING,
)


@dataclass(frozen=True)
class Expected:
    """What the caller of a fit gets.

    Attributes
    ----------
    error : type or None
        Kind of what is raised; None for weights.
    says : tuple of str
        Regular expressions that the error and its notes match; ``{worker}`` is the
        victim and ``{scheduler}`` the scheduler.
    called : str
        What the page calls it.
    within_s : float
        Seconds in which it has to come, counted from the fault: what the design
        allows, and as much again for a machine that has other things to do.
    """

    error: type[BaseException] | None
    says: tuple[str, ...] = ()
    called: str = ""
    within_s: float = 10.0

    def __str__(self) -> str:
        return self.called or (self.error.__name__ if self.error else "right answer")


RIGHT = Expected(None)
IN_TURNS = Expected(None, within_s=25.0)
"""Right, but two threads take turns at Python's lock."""

KEPT = Expected(None, ("Training interrupted by user",), "weights kept, warning")
KILLED = Expected(None, ("SIGKILL",), "workers free")
NOT_FINITE = Expected(ValueError, ("non-finite parameter weights",))
INTERRUPTED = Expected(KeyboardInterrupt)

DOING = {
    PLACING: "while placing",
    CONNECTING: "while training",
    FORWARD: "while training",
    BACKWARD: "while training",
    BETWEEN: "while training",
    COLLECTING: "while collecting",
}
"""What the client is doing then, as its errors say."""

EXCHANGES = {
    CONNECTING: "",
    FORWARD: "forward exchange",
    BACKWARD: "backward exchange",
    BETWEEN: "the wait for all shards",
}
"""Where other shards notice that one is missing."""

Cells = dict[str, Expected | str]


def lost(*phases: str) -> Cells:
    return {
        phase: Expected(WorkerLostError, ("{worker}", DOING[phase])) for phase in phases
    }


def missed(*phases: str) -> Cells:
    return {
        phase: Expected(ExchangeError, ("{worker}", EXCHANGES[phase]))
        for phase in phases
    }


def raised(error: type[BaseException], *phases: str) -> Cells:
    tasks = dict.fromkeys(PHASES, "train-shard{rank}") | {
        PLACING: "(open|address)-shard{rank}"
    }
    return {
        phase: Expected(error, ("struck", "{worker}", tasks[phase])) for phase in phases
    }


def each(expected: Expected | str, *phases: str) -> Cells:
    return dict.fromkeys(phases, expected)


SILENT = Expected(WorkerLostError, ("{worker}",), within_s=20.0)
RETIRED = Expected(WorkerLostError, ("{worker} (is being retired|was lost)",))
NO_THREAD = "its shard has the worker's only thread"


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes
    ----------
    name : str
        What happens.
    strike : callable
        See `Strike`.
    cells : dict
        By phase what is expected, or why it cannot occur.
    rank : int
        Shard on the victim.
    kind : {"processes", "two threads", "nannies"}
        Which cluster.
    in_process : bool
        Whether the client is a process of its own.
    held : {"client", "victim", ""}
        Who is held; by default the client where workers are idle.
    n_times : int
        How often a client is held.
    settings : dict
        Of Dask.
    given_up_in : tuple of str
        Phases in which Dask is to give up soon a worker that it does not hear of.
    after : callable or None
        What else is done when the fit has ended.
    ends_cluster : bool
        Whether there is no next fit.
    """

    name: str
    strike: Strike
    cells: Cells
    rank: int
    kind: str = "processes"
    in_process: bool = False
    held: str = ""
    n_times: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    given_up_in: tuple[str, ...] = ()
    after: Callable[[Scene], None] | None = None
    ends_cluster: bool = False


SHORT = {"skdistmlp.exchange-timeout": f"{TIMEOUT_S}s"}
SLOW = {"skdistmlp.exchange-timeout": f"{SLOW_TIMEOUT_S}s"}

FAULTS = [
    Fault("worker killed", kill, lost(*PHASES), rank=1),
    Fault(
        "worker stopped (SIGSTOP), goes on during the next fit",
        stop,
        missed(CONNECTING, FORWARD, BACKWARD)
        | each(SILENT, PLACING, BETWEEN, COLLECTING),
        # The next fit is to find two others.
        rank=2,
        settings=SHORT,
        given_up_in=(PLACING, BETWEEN, COLLECTING),
        after=go_on_during_next_fit,
    ),
    Fault(
        "worker restarted by its nanny", restart, lost(*PHASES), rank=0, kind="nannies"
    ),
    Fault(
        "worker retired",
        retire,
        each(RETIRED, PLACING, BETWEEN)
        | each(RIGHT, CONNECTING, FORWARD, BACKWARD, COLLECTING),
        rank=1,
    ),
    Fault(
        "connections between shards cut",
        cut_links,
        missed(CONNECTING, FORWARD, BACKWARD, BETWEEN)
        | {PLACING: "there are none yet", COLLECTING: "there are none any more"},
        # Others connect to it.
        rank=0,
        settings=SHORT,
    ),
    Fault(
        "worker's connection with the scheduler cut",
        cut_connection_with_scheduler,
        lost(*PHASES),
        rank=2,
    ),
    Fault(
        "slow, within the timeout",
        be_slow,
        each(RIGHT, *PHASES),
        rank=0,
        held="victim",
        settings=SLOW,
    ),
    Fault(
        "worker busy with another task for longer than the timeout",
        keep_busy,
        each(RIGHT, PLACING, CONNECTING, BETWEEN, COLLECTING)
        | each(NO_THREAD, FORWARD, BACKWARD),
        rank=1,
        held="client",
        settings=SHORT,
    ),
    Fault(
        "worker's other thread computes for somebody else all the time",
        compute_beside,
        each(IN_TURNS, *PHASES),
        rank=1,
        kind="two threads",
        held="victim",
        settings=SLOW,
    ),
    Fault(
        "out of memory: ended by its nanny",
        eat_memory,
        lost(*PHASES),
        rank=2,
        kind="nannies",
    ),
    Fault(
        "out of memory: MemoryError in a shard",
        order("raise", "MemoryError"),
        raised(MemoryError, *PHASES),
        rank=1,
        held="victim",
    ),
    Fault(
        "exception in a shard",
        order("raise", "RuntimeError"),
        raised(RuntimeError, *PHASES),
        rank=2,
        held="victim",
    ),
    Fault(
        "worker that speaks another version",
        order("speak_another_version"),
        {CONNECTING: Expected(ExchangeError, ("{worker}",))}
        | each("versions are compared before a fit is placed", PLACING)
        | each("shards have met", *PHASES[2:]),
        rank=1,
        settings=SHORT,
    ),
    Fault(
        "non-finite weights",
        spoil_weights,
        each(NOT_FINITE, FORWARD, BACKWARD, BETWEEN)
        | each("weights are drawn finite", PLACING, CONNECTING)
        | {COLLECTING: "weights change no more"},
        rank=1,
    ),
    Fault("client killed", kill_client, each(KILLED, *PHASES), 1, in_process=True),
    Fault(
        "client interrupted once",
        interrupt,
        {PLACING: INTERRUPTED} | each(KEPT, *PHASES[1:]),
        rank=1,
        in_process=True,
    ),
    Fault(
        "client interrupted twice",
        interrupt_twice,
        {PLACING: "the first time ends it"} | each(INTERRUPTED, *PHASES[1:]),
        rank=1,
        in_process=True,
        n_times=2,
    ),
    Fault(
        "scheduler killed",
        kill_scheduler,
        {
            phase: Expected(ClusterError, ("{scheduler}", DOING[phase]))
            for phase in PHASES
        },
        rank=0,
        settings={"distributed.comm.timeouts.connect": "1s"},
        ends_cluster=True,
    ),
]
