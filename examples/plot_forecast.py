"""What the planner predicts, and what it takes
============================================

With ``engine="auto"``, a fit measures the workers of a cluster and this process for
about half a second, predicts what a step would take on each number of workers, and
takes the fastest plan. ``ForecastDisplay`` plots the prediction and what a step took.
This page also trains on the plans that were not taken, and compares what each was
expected to take with what it took. Each worker has one thread, and so has this process
here, as if the workers were machines like this one.

``plan_fit`` predicts without training, and ``dask mlp plan --plot plan.png`` for a
network on random data, also for workers that you do not have.
"""

import json
import math
import os
import platform
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
from distributed import Client, SubprocessCluster
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from skdistmlp import DistributedMLPClassifier, Forecast
from skdistmlp.plotting import ForecastDisplay

WIDTHS = (1024, 1024)
BATCH_SIZE = 200
N_EPOCHS = 100

warnings.simplefilter("ignore", ConvergenceWarning)  # fits end with max_iter
X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    (X / 16).astype("float32"), y, random_state=0
)
n_steps = N_EPOCHS * math.ceil(len(X_train) / BATCH_SIZE)

# %%
# Each plan is one of the rows of the forecast: in this process, on one worker, and on
# two, as shards, as replicas or by Dask's tasks (``engine="futures"``). The first row
# is the plan that is taken.


def measure():
    """Return the forecast of a fit, and milliseconds per step of each plan."""
    with (
        threadpool_limits(1),
        SubprocessCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        clf = DistributedMLPClassifier(
            WIDTHS,
            batch_size=BATCH_SIZE,
            max_iter=N_EPOCHS,
            n_iter_no_change=N_EPOCHS,
            random_state=0,
        )
        # The first fit imports the package on the workers, which may take longer than a
        # measurement waits for them.
        clone(clf).set_params(engine="peers", max_iter=1).fit(X_train, y_train)
        clf.fit(X_train, y_train)
        plan = clf.plan_
        if plan.forecast is None:
            raise RuntimeError(f"there is no forecast: {plan.reason}")
        measured = []
        for row in plan.forecast.rows:
            other = clone(clf).set_params(engine=row.engine)
            if row.n_workers > 0:
                other.set_params(n_workers=row.n_workers, n_replicas=row.n_replicas)
            start = time.perf_counter()
            other.fit(X_train, y_train)
            step_ms = 1e3 * (time.perf_counter() - start) / n_steps
            measured.append({"plan": row.name, "step_ms": step_ms})
    return {
        "forecast": asdict(plan.forecast),
        "n_workers": len(plan.workers),
        "measured": measured,
        "accuracy": clf.score(X_test, y_test),
    }


# %%
# Times mean little on a busy machine, such as one that builds documentation. So this
# page draws an earlier measurement, which is in a file next to the script, and prints
# on which machine, under which load, it was made. Where there is no such file, as with
# a downloaded notebook, this measures, which takes three minutes. To measure again,
# delete the file.

folder = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook's
file = folder / "plot_forecast.json"
if not file.exists():
    system = f"{platform.system()} {platform.machine()}"
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {system}"
    record = {"command": "python examples/plot_forecast.py", "machine": machine}
    file.write_text(json.dumps(record | measure(), indent=1) + "\n")
results = json.loads(file.read_text())
print(f"measured by {results['command']} with one thread per worker")
print(f"on {results['machine']}")

forecast = Forecast.of_state(results["forecast"])
print(forecast)
for row, measured in zip(forecast.rows, results["measured"], strict=True):
    print(
        f"{row.name:20} expected {1e3 * row.step_s:5.1f} ms per step, "
        f"measured {measured['step_ms']:5.1f}"
    )
print(f"accuracy {results['accuracy']:.3f} on unseen digits")

# %%
# The line is the fastest plan of each number of workers, and the cross is what a step
# took on the plan that was chosen. After a fit,
# ``ForecastDisplay.from_plan(clf.plan_)`` draws both.

ForecastDisplay.from_forecast(forecast, n_workers=results["n_workers"])
plt.show()

# %%
# And this is each plan, the fastest one first. What was measured are whole fits, with
# their start and end. Workers are measured all at once, when they share the memory of
# their machine: one that trains alone there may take less than expected.

plans = [row.name for row in forecast.rows]
expected_ms = [1e3 * row.step_s for row in forecast.rows]
measured_ms = [measured["step_ms"] for measured in results["measured"]]

_, ax = plt.subplots(layout="constrained")
ax.hlines(plans, expected_ms, measured_ms, color="lightgrey", linewidth=3, zorder=1)
ax.plot(expected_ms, plans, "o", label="expected")
ax.plot(measured_ms, plans, "X", color="black", label="measured")
ax.invert_yaxis()
ax.set(xscale="log", xlabel="Step (ms), logarithmic")
ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
ax.xaxis.set_major_formatter(ScalarFormatter())
ax.xaxis.set_minor_formatter(NullFormatter())
ax.legend()
plt.show()
