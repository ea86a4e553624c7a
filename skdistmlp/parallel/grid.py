"""Replicas x shards: who takes part in a run.

Along the neurons, a network is cut into shards, and each mini-batch is exchanged as
activations. Along the replicas, the rows of each mini-batch are divided, and gradients
are exchanged. Gholami et al. (2018, arXiv 1712.04432) have the costs of both.
"""

from dataclasses import dataclass
from typing import Literal

from skdistmlp.parallel.split import NeuronRange, split_neurons

Axis = Literal["neurons", "replicas"]


@dataclass(frozen=True)
class Grid:
    """The processes of a run, ranked replica by replica.

    Attributes
    ----------
    n_shards : int
        Number of shards of the network in each replica.
    n_replicas : int
        Number of replicas.
    """

    n_shards: int
    n_replicas: int = 1

    @property
    def n_ranks(self) -> int:
        """Number of processes."""
        return self.n_shards * self.n_replicas

    def shard(self, rank: int) -> int:
        """Return the number of the shard that a process holds."""
        return rank % self.n_shards

    def replica(self, rank: int) -> int:
        """Return the number of the replica that a process belongs to."""
        return rank // self.n_shards

    def title(self, rank: int) -> str:
        """Return what messages call a process, such as "shard 0 of replica 1"."""
        title = f"shard {self.shard(rank)}"
        if self.n_replicas == 1:
            return title
        return f"{title} of replica {self.replica(rank)}"

    def task_name(self, rank: int) -> str:
        """Return what names of tasks call a process, such as "shard0-of-replica1".

        Without replicas, they have the number of shards instead: "shard0-of-2".
        """
        group = f"replica{self.replica(rank)}" if self.n_replicas > 1 else self.n_shards
        return f"shard{self.shard(rank)}-of-{group}"

    def along(self, axis: Axis, rank: int) -> range:
        """Return the ranks that one exchanges with along an axis, its own included."""
        if axis == "neurons":
            first = self.replica(rank) * self.n_shards
            return range(first, first + self.n_shards)
        return range(self.shard(rank), self.n_ranks, self.n_shards)


def optimizer_parts(n_parameters: int, n_replicas: int) -> tuple[NeuronRange, ...]:
    """Return which of a shard's parameters the optimiser of each replica updates.

    Moments are divided among the replicas, and so is the optimiser's work: the first
    stage of ZeRO (Rajbhandari et al., 2020, arXiv 1910.02054).
    """
    return split_neurons(n_parameters, [1.0] * n_replicas)
