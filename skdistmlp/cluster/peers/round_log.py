"""Log lines about how rounds of training went."""

import logging
from collections.abc import Sequence

from skdistmlp.cluster.peers.shard import Report
from skdistmlp.exceptions import counted
from skdistmlp.training.progress import LbfgsProgress, Progress

LOG = logging.getLogger("skdistmlp")


class RoundLog:
    """Writes a line per round to the package's logger.

    Parameters
    ----------
    names : sequence of str
        What to call each shard, by rank.
    resumed : Progress, LbfgsProgress or None
        How far training had come before the first round.
    """

    def __init__(
        self, names: Sequence[str], resumed: Progress | LbfgsProgress | None
    ) -> None:
        self._names = names
        self._n_samples_logged = (
            resumed.n_samples_seen if isinstance(resumed, Progress) else 0
        )

    def write(self, number: int, reports: Sequence[Report]) -> None:
        """Say how a round went, from the reports of all shards."""
        first = reports[0]
        shares = [r.exchanging_s / max(r.training_s, 1e-9) for r in reports]
        # The others wait for it in their exchanges. Not what one computes for all.
        computed_s = [report.computed_s for report in reports]
        slowest = computed_s.index(max(computed_s))
        LOG.info(
            "round %d: %s%.2f s, %.0f%% of it exchanging, slowest %s",
            number,
            self._pace(first),
            first.training_s,
            100 * sum(shares) / len(shares),
            self._names[slowest],
        )

    def _pace(self, report: Report) -> str:
        """Say how far training has come; count the samples of the round."""
        progress = report.progress
        if progress is None:
            # L-BFGS, before the end of an iteration.
            return ""
        if isinstance(progress, LbfgsProgress):
            iterations = counted(progress.n_iter, "iteration")
            return f"{iterations}, loss {progress.loss:.6f}, "
        n_samples = progress.n_samples_seen - self._n_samples_logged
        self._n_samples_logged = progress.n_samples_seen
        # An interrupt may come before the end of the first epoch.
        loss = "" if progress.loss is None else f" loss {progress.loss:.6f},"
        speed = f" {n_samples / max(report.training_s, 1e-9):,.0f} samples/s,"
        epochs = counted(progress.n_iter, "epoch")
        return f"{epochs},{loss}{speed if n_samples else ''} "
