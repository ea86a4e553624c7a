"""From what network size on distributing pays
===========================================

``CrossoverDisplay`` plots the speed-up of distributed training by the number of
parameters of the network; below 1, distributed training is slower. This page compares
two workers with one.

``dask mlp crossover --plot crossover.png`` plots the same for your own cluster, on
random data. Its baseline is the process that calls ``fit``, with all of its threads,
since that is where a network trains that is not distributed.
"""

import json
import os
import platform
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
from distributed import Client, SubprocessCluster
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from skdistmlp import DistributedMLPClassifier
from skdistmlp.plotting import CrossoverDisplay

WIDTHS = (8, 16, 32, 64, 128, 256, 512)
N_EPOCHS = 200
N_REPEATS = 3

warnings.simplefilter("ignore", ConvergenceWarning)  # fits end with max_iter
X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    (X / 16).astype("float32"), y, random_state=0
)

# %%
# Networks with two hidden layers learn to read digits, in turn on one worker and on
# two, so that whatever else the machine does affects both.


def measure():
    """Return the sizes of the networks, the seconds of fits, and accuracies."""
    results = {"n_parameters": [], "one": [], "two": [], "accuracy": []}
    with (
        SubprocessCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        clf = DistributedMLPClassifier(
            engine="peers", batch_size=200, n_iter_no_change=N_EPOCHS, random_state=0
        )
        # The first fit imports the package on the workers.
        clf.set_params(max_iter=1).fit(X_train, y_train)
        for width in WIDTHS:
            clf.set_params(hidden_layer_sizes=(width, width), max_iter=N_EPOCHS)
            seconds = {1: [], 2: []}
            for _ in range(N_REPEATS):
                for n_workers, times in seconds.items():
                    start = time.perf_counter()
                    clf.set_params(n_workers=n_workers).fit(X_train, y_train)
                    times.append(time.perf_counter() - start)
            results["n_parameters"].append(clf.plan_.split.n_parameters)
            results["one"].append(seconds[1])
            results["two"].append(seconds[2])
            results["accuracy"].append(clf.score(X_test, y_test))
    return results


# %%
# Times mean little on a busy machine, such as one that builds documentation. So this
# page draws an earlier measurement, which is in a file next to the script, and prints
# on which machine, under which load, it was made. Where there is no such file, as with
# a downloaded notebook, this measures, which takes about a minute. To measure again,
# delete the file.

folder = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook's
file = folder / "plot_crossover.json"
if not file.exists():
    system = f"{platform.system()} {platform.machine()}"
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {system}"
    record = {"command": "python examples/plot_crossover.py", "machine": machine}
    file.write_text(json.dumps(record | measure(), indent=1) + "\n")
results = json.loads(file.read_text())
print(f"measured by {results['command']} with one thread per worker")
print(f"on {results['machine']}")
for size, accuracy in zip(results["n_parameters"], results["accuracy"], strict=True):
    print(f"{size:>9,} parameters  accuracy {accuracy:.3f}")

# %%
# The line is the median of the ratios of whole fits, including their start: two workers
# take longer to begin and end one, which weighs on the short fits of small
# networks. A dotted line marks the size from which the ratio stays above 1, if there is
# one. Other measurements come to other sizes. The :doc:`benchmark </benchmark>` finds
# 22,300 parameters, where it compares single steps of networks with one hidden layer,
# with numba and without Dask's profiler. The default of ``parameter_threshold`` is
# 50,000, about the size in this picture, which was measured on two cores; ``dask mlp
# crossover`` measures the one for your machines.

CrossoverDisplay.from_measurements(
    results["n_parameters"], results["one"], results["two"], name="two workers"
)
plt.show()
