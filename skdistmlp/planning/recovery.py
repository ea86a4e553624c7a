"""What became of a fit that did not end where it began."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from skdistmlp.exceptions import counted
from skdistmlp.public import public
from skdistmlp.training.progress import BEGAN_AGAIN

Kind: TypeAlias = Literal["lost", "broken", "retired", "paused", "moved"]
"""Why a fit went on elsewhere: see `Recovery`."""

VERBS: dict[Kind, tuple[str, str]] = {
    "lost": ("was lost", "were lost"),
    "retired": ("was being retired", "were being retired"),
    "paused": ("stayed paused", "stayed paused"),
}
"""What happened to one worker, and to several."""


@public
@dataclass(frozen=True)
class Recovery:
    """A change of workers in the middle of a fit.

    A fitted estimator has those of its training as `recoveries_`.

    Parameters
    ----------
    lost : tuple of str
        Addresses of all workers that the fit lost or left.
    error : str
        What happened, as an error would have said it; of a fit that has moved, what was
        predicted.
    after_s : float
        Seconds from the beginning of the fit to the change.
    waited_s : float
        Seconds from then to the end of the wait for other workers.
    n_iter : int
        Number of epochs, or of iterations of "lbfgs", that were not lost.
    workers : tuple of str
        Addresses of the workers that went on: shard by shard, replica by replica.
    n_replicas : int
        Number of replicas from then on.
    same_bits : bool
        Whether the parameters are bit for bit those of an undisturbed fit: if the
        shards and replicas are as many as before, and have the same neurons and rows,
        on workers with as many threads, the same NumPy, SciPy and numba, and processors
        for which NumPy and its BLAS choose the same code. Otherwise they agree to
        rounding.
    kind : {"lost", "broken", "retired", "paused", "moved"}
        Workers were lost, with what was trained since the last copies of the state;
        or one could not connect to another, again and again, and counts as lost. Or no
        worker was lost, but an exchange between them failed, as if one had hung or the
        network had broken for a moment: the fit resumed on the same workers.
        Workers that were being retired, or stayed paused, handed their shards over. Or
        the fit moved to a plan that is faster (the setting ``skdistmlp.elastic``).
    restarts : bool
        Whether the solver began again there, from the parameters that it had: "lbfgs",
        what SciPy knew besides is lost.
    kinds : tuple of str
        What happened to each of the workers in `lost`, if not `kind` to all of them:
        another may have been retired, or lost, while the fit waited for workers.
    """

    lost: tuple[str, ...]
    error: str
    after_s: float
    waited_s: float
    n_iter: int
    workers: tuple[str, ...]
    n_replicas: int
    same_bits: bool
    kind: Kind = "lost"
    restarts: bool = False
    kinds: tuple[Kind, ...] = ()

    def __str__(self) -> str:
        where = ", ".join(self.workers)
        answer = "identical" if self.same_bits else "equal up to rounding"
        how = f"resumed from epoch {self.n_iter}" if self.n_iter else "started over"
        then = f"{how} on {where}, with results {answer} to those of an undisturbed fit"
        if self.restarts:
            then = (
                f"resumed from iteration {self.n_iter} on {where}, where {BEGAN_AGAIN}"
            )
        if self.kind == "moved":
            n_workers = counted(len(self.workers), "worker")
            return (
                f"the fit moved to {n_workers} after {self.after_s:.1f} s, since "
                f"{self.error}; it {then}"
            )
        if self.kind == "broken":
            return (
                f"an exchange failed after {self.after_s:.1f} s, though no worker was "
                f"lost: {self.error}; the fit {then}"
            )
        by_kind: dict[Kind, list[str]] = {self.kind: []}
        kinds = self.kinds or (self.kind,) * len(self.lost)
        for worker, kind in zip(self.lost, kinds, strict=True):
            by_kind.setdefault(kind, []).append(worker)
        who = _named(by_kind[self.kind])
        what, *others = (
            f"{_named(workers)} {VERBS[kind][len(workers) > 1]}"
            for kind, workers in by_kind.items()
        )
        meanwhile = "".join(f"; {other} meanwhile" for other in others)
        why = ""
        if self.kind == "lost":
            why = self.error.removeprefix(what)
            if why == self.error:
                # It may be there, and hang, or be out of reach for another.
                return (
                    f"the fit went on without {who} after {self.after_s:.1f} s, since "
                    f"{why}{meanwhile}; it {then}"
                )
            why = f",{why}"
        return f"{what} after {self.after_s:.1f} s{why}{meanwhile}; the fit {then}"


def _named(workers: Sequence[str]) -> str:
    return f"worker{'s' if len(workers) > 1 else ''} {', '.join(workers)}"
