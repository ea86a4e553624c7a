"""What more workers would bring
=============================

``plan_fit`` measures the workers of a cluster and this process, and says without
training what a fit would take on each number of workers. ``ForecastDisplay`` plots it;
after a fit, also what a step took. ``dask mlp plan --plot plan.png`` does the same for
a network on random data, also for workers that you do not have.
"""

import matplotlib.pyplot as plt
import numpy as np

from skdistmlp import DistributedMLPClassifier
from skdistmlp.crossover.local_workers import single_threaded_workers
from skdistmlp.plotting import ForecastDisplay


def main() -> None:
    """Plan a fit on two workers; print the plan, and plot what was expected."""
    random = np.random.default_rng(0)
    X = random.normal(size=(4000, 200)).astype(np.float32)
    y = X[:, :4].argmax(axis=1)
    with single_threaded_workers(2) as client:
        clf = DistributedMLPClassifier(hidden_layer_sizes=(512, 512), client=client)
        plan = clf.plan_fit(X, y)
    print(plan.forecast)
    ForecastDisplay.from_plan(plan, name="200-(512, 512)")
    plt.show()


if __name__ == "__main__":
    main()
