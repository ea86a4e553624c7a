"""The table of faults and phases where fits recover, by grid."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.cluster.faults.actions import (
    TIMEOUT_S,
    cut_connection_with_scheduler,
    cut_links,
    kill,
    kill_and_replace_late,
    kill_during_recovery,
    kill_twice,
    kill_two,
    pause,
    restart,
    resume,
    retire,
    slow_down,
    suspend,
)
from tests.cluster.faults.fits import REPEATED
from tests.cluster.faults.gates import (
    ALL_PHASES,
    BACKWARD,
    BETWEEN,
    COLLECTING,
    CONNECTING,
    COPYING,
    FORWARD,
    PLACING,
    VALIDATING,
)
from tests.cluster.faults.table import (
    SHORT,
    SLOW,
    Cells,
    Fault,
    Survives,
    each,
)

LOSS_S = 10.0
"""Seconds that a loss may cost."""

RECOVERY_WAIT_S = 10.0
"""Seconds for which a fit waits for replacements: the default."""

RECOVERING = {
    "skdistmlp.max-recoveries": 3,
    "skdistmlp.recovery-wait": f"{RECOVERY_WAIT_S}s",
}

N_COPIED = {
    PLACING: 0,
    CONNECTING: 0,
    FORWARD: 1,
    BACKWARD: 1,
    BETWEEN: 1,
    COPYING: 1,
    COLLECTING: REPEATED.max_iter - 1,
    VALIDATING: 1,
}
"""Epochs of which there are copies when a fit is held in a phase for the first time."""

N_COPIED_LATER = N_COPIED | dict.fromkeys(
    (FORWARD, BACKWARD, BETWEEN, COPYING, VALIDATING), 2
)
"""The same in the run that follows."""


N_HANDED_OVER = N_COPIED | {CONNECTING: 1}
N_HANDED_OVER |= dict.fromkeys((FORWARD, BACKWARD, COPYING, VALIDATING), 2)
"""Epochs that are trained at the end of a round in which a fit is held."""


def survives(
    *n_iters: dict[str, int],
    wait_s: float = 0.0,
    loses_workers: bool = True,
    kinds: tuple[str, ...] = ("lost",),
) -> Cells:
    """Return the outcomes of losses, each with the epochs from which fits resume."""
    return {
        phase: Survives(
            within_s=LOSS_S * len(n_iters) + wait_s,
            resumes_from=tuple(numbers[phase] for numbers in n_iters),
            loses_workers=loses_workers,
            kinds=kinds,
        )
        for phase in ALL_PHASES
    }


def hands_over(kind: str) -> Cells:
    """Return the outcomes where a worker ends its round, and then accepts no tasks."""
    return survives(N_HANDED_OVER, kinds=(kind,)) | {
        # There is nothing to hand over yet, so the worker may be gone already.
        PLACING: Survives(within_s=LOSS_S, resumes_from=(0,), kinds=(kind, "lost")),
        # Its part is done.
        COLLECTING: Survives(within_s=LOSS_S),
    }


FAULTS = [
    Fault("worker killed", kill, survives(N_COPIED), rank=1),
    Fault(
        "worker killed, and then its replacement in the same phase",
        kill_twice,
        survives(N_COPIED, N_COPIED_LATER),
        rank=1,
        n_times=2,
    ),
    Fault(
        "two neighbouring workers killed at once",
        kill_two,
        survives(dict.fromkeys(ALL_PHASES, 0)),
        rank=1,
    ),
    Fault(
        "worker killed, and another one during the recovery",
        kill_during_recovery,
        survives(N_COPIED, N_COPIED),
        rank=1,
    ),
    Fault(
        "worker suspended (SIGSTOP), resumed after the fit",
        suspend,
        survives(N_COPIED, wait_s=TIMEOUT_S),
        rank=1,
        settings=SHORT,
        after=resume,
    ),
    Fault(
        "worker restarted by its nanny",
        restart,
        survives(N_COPIED),
        rank=0,
        kind="nannies",
    ),
    Fault("worker retired", retire, hands_over("retired"), rank=1),
    Fault("worker paused", pause, hands_over("paused"), rank=1, settings=SHORT),
    Fault(
        "connections between shards cut",
        cut_links,
        # The copies do not travel over these connections.
        survives(N_COPIED | {COPYING: 2}, loses_workers=False, kinds=("broken",))
        | {
            PLACING: "there are none yet",
            COLLECTING: "they are closed already",
        },
        rank=0,
        settings=SHORT,
    ),
    Fault(
        "worker's connection to the scheduler cut",
        cut_connection_with_scheduler,
        survives(N_COPIED),
        rank=1,
    ),
    Fault(
        "worker killed without a spare one, another joins later",
        kill_and_replace_late,
        survives(N_COPIED, wait_s=RECOVERY_WAIT_S),
        rank=1,
    ),
    Fault(
        "shard slow, within the timeout",
        slow_down,
        each(Survives(within_s=LOSS_S), *ALL_PHASES),
        rank=0,
        held="victim",
        settings=SLOW,
    ),
]

BY_ACTION = {fault.action: fault for fault in FAULTS}


@dataclass(frozen=True)
class RecoveryGrid:
    """A grid, and what is tried on it.

    Attributes
    ----------
    title : str
        Of its table.
    shape : (int, int)
        Number of workers, and of replicas.
    faults : sequence of Fault
        The rows.
    text : str
        What the page says above the table.
    """

    title: str
    shape: tuple[int, int]
    faults: Sequence[Fault]
    text: str

    def n_spare(self, fault: Fault) -> int:
        """Return the number of workers that stand by."""
        return 0 if fault.action is kill_and_replace_late else 1


GRIDS = [
    RecoveryGrid(
        "Recovery: two shards",
        (2, 1),
        FAULTS,
        "Two workers with a shard each, and a spare worker. The fits train for four "
        "epochs with early stopping. Here each epoch ends a round, and copies are "
        "taken after each.",
    ),
    RecoveryGrid(
        "Recovery: two replicas of one shard",
        (2, 2),
        [
            BY_ACTION[action]
            for action in (
                kill,
                kill_twice,
                kill_during_recovery,
                suspend,
                retire,
                cut_connection_with_scheduler,
            )
        ],
        "Two workers with a copy of the network each, and a spare worker.",
    ),
    RecoveryGrid(
        "Recovery: two replicas of two shards",
        (4, 2),
        [BY_ACTION[action] for action in (kill, kill_two, suspend)],
        "Four workers, and a spare one.",
    ),
]
