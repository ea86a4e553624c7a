"""From what size on sharing a network pays
========================================

``CrossoverDisplay`` draws how many times faster a shared network trains, by its number
of parameters: below 1 it is slower. Faster than what, you choose: this page compares
two workers with one worker of theirs, and measures each network once.
``dask mlp crossover --png`` draws the same for a cluster of yours, at more sizes and
with repeats. It compares with training in the process that calls ``fit``, with all of
its threads, since that is where a network is trained that is not shared.
"""

from functools import partial

import matplotlib.pyplot as plt

from skdistmlp import DistributedMLPClassifier
from skdistmlp.crossover.clusters import two_workers
from skdistmlp.crossover.measurement import growing
from skdistmlp.crossover.workloads import Workload
from skdistmlp.plotting import CrossoverDisplay


def main() -> None:
    """Train networks that grow on one worker and on two, and draw the ratios."""
    with two_workers() as client:
        shared = partial(
            DistributedMLPClassifier,
            client=client,
            engine="peers",
            parameter_threshold=0,
        )
        rows = list(
            growing(
                {
                    "one worker": partial(shared, n_workers=1),
                    "two workers": partial(shared, n_workers=2),
                },
                [
                    Workload(64, (2**i,), n_steps=20, n_epochs=3)
                    for i in range(4, 13, 2)
                ],
                repeats=1,
            )
        )
    CrossoverDisplay.from_measurements(
        [row["parameters"] for row in rows],
        [row["one worker, ms"] for row in rows],
        [row["two workers, ms"] for row in rows],
        name="two workers",
    )
    plt.show()


if __name__ == "__main__":
    main()
