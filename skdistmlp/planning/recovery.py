"""What became of a fit that has lost workers."""

from dataclasses import dataclass

from skdistmlp.public import public


@public
@dataclass(frozen=True)
class Recovery:
    """A loss of workers that a fit has survived.

    A fitted estimator has those of its training as `recoveries_`.

    Parameters
    ----------
    lost : tuple of str
        Addresses of the workers that were lost.
    error : str
        What happened, as an error would have said it.
    after_s : float
        Seconds from the beginning of the fit to the loss.
    waited_s : float
        Seconds from the loss to the end of the wait for other workers.
    n_iter : int
        Number of epochs, or of iterations of "lbfgs", that were not lost.
    workers : tuple of str
        Addresses of the workers that went on: shard by shard, replica by replica.
    n_replicas : int
        Number of replicas from then on.
    same_bits : bool
        Whether the parameters are bit for bit those of an undisturbed fit: if the
        shards and replicas are as many as before, and have the same neurons and rows.
        Otherwise they agree to rounding.
    """

    lost: tuple[str, ...]
    error: str
    after_s: float
    waited_s: float
    n_iter: int
    workers: tuple[str, ...]
    n_replicas: int
    same_bits: bool

    def __str__(self) -> str:
        several = len(self.lost) > 1
        who = f"worker{'s' if several else ''} {', '.join(self.lost)}"
        who = f"{who} {'were' if several else 'was'}"
        answer = "identical" if self.same_bits else "equal up to rounding"
        return (
            f"{who} lost after {self.after_s:.1f} s; the fit resumed from "
            f"epoch {self.n_iter} on {', '.join(self.workers)}, with "
            f"results {answer} to those of an undisturbed fit"
        )
