"""From what network size on distributing pays
===========================================

``CrossoverDisplay`` plots the speed-up of distributed training by the number of
parameters of the network; below 1, distributed training is slower. The baseline is up
to you: this page compares two workers with one, and measures each network once.

``dask mlp crossover --plot crossover.png`` plots the same for your own cluster, with
more sizes and with repeats. Its baseline is the process that calls ``fit``, with all of
its threads, since that is where a network trains that is not distributed.
"""

from functools import partial

import matplotlib.pyplot as plt

from skdistmlp import DistributedMLPClassifier
from skdistmlp.crossover.local_workers import single_threaded_workers
from skdistmlp.crossover.measurement import measure_growing_networks
from skdistmlp.crossover.workloads import Workload
from skdistmlp.plotting import CrossoverDisplay


def main() -> None:
    """Train networks of growing size on one worker and on two; plot the speed-up."""
    with single_threaded_workers(2) as client:
        on_workers = partial(
            DistributedMLPClassifier,
            client=client,
            engine="peers",
        )
        measurements = list(
            measure_growing_networks(
                partial(on_workers, n_workers=1),
                partial(on_workers, n_workers=2),
                [
                    Workload(64, (2**i,), n_steps=20, n_epochs=3)
                    for i in range(4, 13, 2)
                ],
                repeats=1,
            )
        )
    CrossoverDisplay.from_measurements(
        [measured.n_parameters for measured in measurements],
        [measured.baseline_step_ms for measured in measurements],
        [measured.distributed_step_ms for measured in measurements],
        name="two workers",
    )
    plt.show()


if __name__ == "__main__":
    main()
