"""How the time of a fit depends on the number of workers
======================================================

``WorkerCountDisplay`` plots the fit times of a search over ``n_workers``, next to ideal
scaling: twice the workers, half the time.
"""

import json
import os
import platform
import warnings
from pathlib import Path

import dask
import matplotlib.pyplot as plt
from distributed import Client, SubprocessCluster
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from skdistmlp import DistributedMLPClassifier, FastestWithin
from skdistmlp.plotting import WorkerCountDisplay

N_WORKERS = (1, 2)
NETWORKS = {"small": (64, 64), "large": (512, 512)}
N_EPOCHS = 50

warnings.simplefilter("ignore", ConvergenceWarning)  # fits end with max_iter
X, y = load_digits(return_X_y=True)
X = (X / 16).astype("float32")

# %%
# Search over the number of workers, for a small network and for a large one. The scores
# of the candidates tie, since results do not depend on how a network is split, and
# ``FastestWithin`` picks the fastest. After a search, ``from_search(search)`` plots it.


def measure():
    """Return numbers of workers, fit times and scores of each network."""
    results = {}
    with (
        SubprocessCluster(
            n_workers=max(N_WORKERS), threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(max(N_WORKERS))
        for name, widths in NETWORKS.items():
            clf = DistributedMLPClassifier(
                widths,
                engine="peers",
                max_iter=N_EPOCHS,
                n_iter_no_change=N_EPOCHS,
                random_state=0,
            )
            # The first fit imports the package on the workers. Without a cache, each of
            # the others sends its rows.
            clone(clf).set_params(max_iter=1).fit(X, y)
            search = GridSearchCV(
                clf, {"n_workers": N_WORKERS}, cv=3, refit=FastestWithin(0.01)
            )
            with dask.config.set({"skdistmlp.cache.max-bytes": 0}):
                search.fit(X, y)
            results[name] = {
                "n_workers": N_WORKERS,
                "fit_times": search.cv_results_["mean_fit_time"].tolist(),
                "fit_times_std": search.cv_results_["std_fit_time"].tolist(),
                "scores": search.cv_results_["mean_test_score"].tolist(),
            }
    return results


# %%
# Times mean little on a busy machine, such as one that builds documentation. So this
# page draws an earlier measurement, which is in a file next to the script, and prints
# on which machine, under which load, it was made. Where there is no such file, as with
# a downloaded notebook, this measures, which takes about half a minute. To measure
# again, delete the file.

folder = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook's
file = folder / "plot_worker_counts.json"
if not file.exists():
    system = f"{platform.system()} {platform.machine()}"
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {system}"
    record = {"command": "python examples/plot_worker_counts.py", "machine": machine}
    record["networks"] = measure()
    file.write_text(json.dumps(record, indent=1) + "\n")
results = json.loads(file.read_text())
print(f"measured by {results['command']} with one thread per worker")
print(f"on {results['machine']}")

# %%
# The large network gains from a second worker. The small one does not: what the workers
# exchange takes longer than what each of them no longer computes.

_, ax = plt.subplots(layout="constrained")
for name, columns in results["networks"].items():
    score = columns.pop("scores")[0]
    name = f"{NETWORKS[name]}, accuracy {score:.2f}"
    WorkerCountDisplay(**columns).plot(ax, name=name)
plt.show()
