"""Train on a running cluster
==========================

Trains on a scheduler and workers that were started by commands, as on a cluster of
several machines.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from distributed import Client
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skdistmlp import DistributedMLPClassifier

# %%
# Start a scheduler, and two workers with one thread each. On three machines, you would
# type these commands in three terminals, without ``--host``, and a worker would find
# the scheduler by its address::
#
#     dask scheduler
#     dask worker tcp://192.0.2.1:8786 --nthreads 8
#
# Here the scheduler writes its address to a file, where the workers look for it.

folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "scheduler.json"
COMMANDS = [
    f"scheduler --scheduler-file {file} --host 127.0.0.1 --port 0 --no-dashboard",
    f"worker --scheduler-file {file} --nthreads 1 --nworkers 2 --no-dashboard",
]
processes = [
    subprocess.Popen(
        [sys.executable, "-m", "dask", *command.split()], stderr=subprocess.DEVNULL
    )
    for command in COMMANDS
]

# %%
# Connect to it, and wait for the workers: ``fit`` takes those that are there.

client = Client(scheduler_file=str(file))  # or Client("tcp://192.0.2.1:8786")
client.wait_for_workers(2)

# %%
# Train on all workers. The plan says which worker holds what.

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
clf = DistributedMLPClassifier(
    (256, 256), engine="peers", tol=1e-2, n_iter_no_change=2, random_state=0
)
clf.fit(X_train, y_train)
print(clf.plan_)
print(f"{clf.n_iter_} epochs, loss {clf.loss_:.4f}")
print(f"accuracy {clf.score(X_test, y_test):.3f} on unseen digits")

# %%
# Stop the scheduler and the workers. On a cluster that others use, call
# ``client.close()`` instead.

client.shutdown()
for process in processes:
    process.wait(timeout=60)
folder.cleanup()
