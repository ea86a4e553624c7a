"""The table of faults and phases, and the expected outcome of each cell."""

from collections.abc import Callable
from dataclasses import dataclass, field

from skdistmlp.exceptions import ClusterError, ExchangeError, WorkerLostError
from tests.cluster.faults.actions import (
    SLOW_TIMEOUT_S,
    TIMEOUT_S,
    Action,
    command,
    compute_in_other_thread,
    cut_connection_with_scheduler,
    cut_links,
    exhaust_memory,
    interrupt,
    interrupt_twice,
    keep_busy,
    kill,
    kill_client,
    kill_scheduler,
    restart,
    resume_during_next_fit,
    retire,
    slow_down,
    spoil_parameters,
    suspend,
)
from tests.cluster.faults.clusters import Scenario
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
    """The expected outcome of a fit.

    Attributes
    ----------
    error : type or None
        Type of the error; None if the fit succeeds.
    says : tuple of str
        Regular expressions that the error and its notes have to match; ``{worker}``
        stands for the victim and ``{scheduler}`` for the scheduler.
    called : str
        Its name on the page.
    within_s : float
        Seconds from the fault within which the fit has to end: twice what the design
        allows, for a busy machine.
    """

    error: type[BaseException] | None
    says: tuple[str, ...] = ()
    called: str = ""
    within_s: float = 10.0

    def __str__(self) -> str:
        return self.called or (self.error.__name__ if self.error else "right answer")


@dataclass(frozen=True)
class Survives(Expected):
    """The outcome of a fit that recovers: the parameters of an undisturbed fit.

    Attributes
    ----------
    resumes_from : tuple of int
        Epochs from which the fit resumes, one after each loss.
    loses_workers : bool
        Whether workers are lost or left, or the fit resumes on the same ones.
    kinds : tuple of str
        What each recovery may be; see `Recovery`.
    """

    error: None = None
    called: str = "same parameters"
    resumes_from: tuple[int, ...] = ()
    loses_workers: bool = True
    kinds: tuple[str, ...] = ("lost",)


RIGHT = Expected(None)
IN_TURNS = Expected(None, within_s=25.0)
"""Right, but two threads share Python's lock."""

PARAMETERS_KEPT = Expected(
    None, ("Training interrupted by user",), "parameters kept, warning"
)
CLIENT_KILLED = Expected(None, ("SIGKILL",), "workers free")
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
"""What the client is doing in each phase, as its errors say."""

EXCHANGES = {
    CONNECTING: "",
    FORWARD: "forward exchange",
    BACKWARD: "backward exchange",
    BETWEEN: "the wait for all shards",
}
"""Where other shards notice that one is missing, as their errors say."""

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
    tasks = dict.fromkeys(PHASES, "train-{task}") | {PLACING: "(open|address)-{task}"}
    return {
        phase: Expected(error, ("injected", "{worker}", tasks[phase]))
        for phase in phases
    }


def each(expected: Expected | str, *phases: str) -> Cells:
    return dict.fromkeys(phases, expected)


SILENT = Expected(WorkerLostError, ("{worker}",))
RETIRED = Expected(WorkerLostError, ("{worker} (is being retired|was lost)",))
NO_THREAD = "its shard occupies the worker's only thread"


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes
    ----------
    name : str
        Its name on the page.
    action : callable
        See `Action`.
    cells : dict
        By phase, the expected outcome, or why the fault cannot occur.
    rank : int
        Shard on the victim.
    kind : {"processes", "two threads", "nannies"}
        Which cluster to use.
    in_process : bool
        Whether the client runs in a separate process.
    held : {"client", "victim", ""}
        Which side is held; by default the client where workers are idle.
    n_times : int
        Number of times that the client is held.
    settings : dict
        Dask settings.
    after : callable or None
        An action for the time after the fit.
    ends_cluster : bool
        Whether the cluster is gone afterwards, so that no fit can follow.
    """

    name: str
    action: Action
    cells: Cells
    rank: int
    kind: str = "processes"
    in_process: bool = False
    held: str = ""
    n_times: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    after: Callable[[Scenario], None] | None = None
    ends_cluster: bool = False


SHORT = {"skdistmlp.exchange-timeout": f"{TIMEOUT_S}s"}
SLOW = {"skdistmlp.exchange-timeout": f"{SLOW_TIMEOUT_S}s"}

FAULTS = [
    Fault("worker killed", kill, lost(*PHASES), rank=1),
    Fault(
        "worker suspended (SIGSTOP), resumed during the next fit",
        suspend,
        missed(CONNECTING, FORWARD, BACKWARD)
        | each(SILENT, PLACING, BETWEEN, COLLECTING),
        # The next fit needs the two others.
        rank=2,
        settings=SHORT,
        after=resume_during_next_fit,
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
        | {PLACING: "there are none yet", COLLECTING: "they are closed already"},
        # The other shards connect to this one.
        rank=0,
        settings=SHORT,
    ),
    Fault(
        "worker's connection to the scheduler cut",
        cut_connection_with_scheduler,
        lost(*PHASES),
        rank=2,
    ),
    Fault(
        "shard slow, within the timeout",
        slow_down,
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
        "worker's other thread computes another task all the time",
        compute_in_other_thread,
        each(IN_TURNS, *PHASES),
        rank=1,
        kind="two threads",
        held="victim",
        settings=SLOW,
    ),
    Fault(
        "out of memory: killed by its nanny",
        exhaust_memory,
        lost(*PHASES),
        rank=2,
        kind="nannies",
    ),
    Fault(
        "out of memory: MemoryError in a shard",
        command("raise", "MemoryError"),
        raised(MemoryError, *PHASES),
        rank=1,
        held="victim",
    ),
    Fault(
        "exception in a shard",
        command("raise", "RuntimeError"),
        raised(RuntimeError, *PHASES),
        rank=2,
        held="victim",
    ),
    Fault(
        "worker with another version",
        command("speak_another_version"),
        {CONNECTING: Expected(ExchangeError, ("{worker}",))}
        | each("versions are compared before the fit starts", PLACING)
        | each("shards are connected already", *PHASES[2:]),
        rank=1,
        settings=SHORT,
    ),
    Fault(
        "non-finite parameters",
        spoil_parameters,
        each(NOT_FINITE, FORWARD, BACKWARD, BETWEEN)
        | each("parameters are drawn finite", PLACING, CONNECTING)
        | {COLLECTING: "parameters no longer change"},
        rank=1,
    ),
    Fault(
        "client killed", kill_client, each(CLIENT_KILLED, *PHASES), 1, in_process=True
    ),
    Fault(
        "client interrupted once",
        interrupt,
        {PLACING: INTERRUPTED} | each(PARAMETERS_KEPT, *PHASES[1:]),
        rank=1,
        in_process=True,
    ),
    Fault(
        "client interrupted twice",
        interrupt_twice,
        {PLACING: "the first interrupt ends it"} | each(INTERRUPTED, *PHASES[1:]),
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
