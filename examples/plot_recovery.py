"""A fit that loses a worker
=========================

Kills a worker in the middle of a fit. Another takes its place, and the network comes
out the same, bit for bit.
"""

import os
import signal
import time
import warnings

import dask
import matplotlib.pyplot as plt
import numpy as np
from distributed import Client, SubprocessCluster
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from skdistmlp import DistributedMLPClassifier
from skdistmlp.plotting import LossCurveDisplay

WIDTHS = (256, 256)
N_EPOCHS = 60
KILLED_AFTER = 30

warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped by max_iter

# %%
# A callback notes when each epoch ended. After one of them, it kills a worker's process
# as the system does when memory runs out.


class Killer:
    """Note the time of each epoch, and kill a process after one of them.

    Parameters
    ----------
    pid : int, optional
        Process to kill; None for an undisturbed fit.

    Attributes
    ----------
    times : list of float
        When each epoch ended.
    """

    def __init__(self, pid=None):
        self.pid = pid
        self.times = []

    def setup(self, estimator, context):
        """Prepare before fit; nothing to do here."""

    def on_fit_task_begin(self, estimator, context):
        """Prepare before the fit and before each epoch; nothing to do here."""

    def on_fit_task_end(self, estimator, context):
        """Note when an epoch ended, and kill the process if it is time."""
        if context.task_name != "epoch":
            return
        self.times.append(time.perf_counter())
        if self.pid is not None and context.task_id + 1 == KILLED_AFTER:
            os.kill(self.pid, signal.SIGKILL)

    def teardown(self, estimator, context):
        """Clean up after fit, also if it failed; nothing to do here."""


# %%
# Start two workers. Each has a nanny, a process that starts another worker if this one
# dies, as workers of ``dask worker`` and of ``LocalCluster`` have. If there is no spare
# worker, the fit waits for the new one for up to 10 s. Here it may take longer, in case
# this machine is busy.

dask.config.set({"skdistmlp.recovery-wait": "60s"})
X, y = load_digits(return_X_y=True)
X = X / 16
cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
client.wait_for_workers(2)


def trained(killer):
    """Return a network that was trained with a callback."""
    clf = DistributedMLPClassifier(
        WIDTHS,
        engine="peers",
        max_iter=N_EPOCHS,
        n_iter_no_change=N_EPOCHS,
        random_state=0,
    )
    return clf.set_callbacks(killer).fit(X, y)


undisturbed = Killer()
expected = trained(undisturbed)
print(expected.plan_)

# %%
# Now kill the worker of the last shard. Training goes on from the last copies of the
# state, which each shard keeps in the memory of the next one too. The fit ends with a
# warning that says what happened, and so does ``recoveries_``.

pids = client.run(os.getpid)
disturbed = Killer(pids[expected.plan_.workers[-1]])
with warnings.catch_warnings(record=True):
    warnings.simplefilter("always")
    clf = trained(disturbed)
(recovery,) = clf.recoveries_
print(recovery)
print(f"killed after epoch {KILLED_AFTER}, resumed from epoch {recovery.n_iter}")

# %%
# The parameters are those of the undisturbed fit.

pairs = zip(clf.coefs_, expected.coefs_, strict=True)
print("same bits:", all(np.array_equal(one, other) for one, other in pairs))

# %%
# Over epochs the curves are the same. Over seconds there is a gap, in which the fit
# waits for the new worker, places the network on it, and repeats the epochs since the
# last copies. Grey lines mark when the worker was killed.

_, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
fits = {"undisturbed": (expected, undisturbed), "disturbed": (clf, disturbed)}
for (name, (network, noted)), style in zip(fits.items(), ("-", "--"), strict=True):
    display = LossCurveDisplay.from_estimator(
        network, ax=left, name=name, curve_kwargs={"linestyle": style}
    )
    seconds = np.subtract(noted.times, noted.times[0])
    right.plot(
        seconds, network.loss_curve_, style, color=display.line_.get_color(), label=name
    )
left.axvline(KILLED_AFTER, color="grey", linewidth=1)
killed_s = disturbed.times[KILLED_AFTER - 1] - disturbed.times[0]
right.axvline(killed_s, color="grey", linewidth=1)
for ax in (left, right):
    ax.set_yscale("log")
right.set(xlabel="seconds after the first epoch", ylabel="loss")
right.legend()
plt.show()

# %%
# Stop the workers.

client.shutdown()
