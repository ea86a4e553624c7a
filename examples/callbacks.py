"""A progress bar and a custom callback
====================================

Shows the progress of training, saves the network after every fifth epoch, and stops
once it classifies held-out digits well enough.
"""

import pickle
import tempfile
from pathlib import Path

from distributed import Client, SubprocessCluster
from sklearn.callback import ProgressBar
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skdistmlp import DistributedMLPClassifier

# %%
# A callback has four methods. They run in this process while the workers train, and if
# one that ends an epoch returns True, training stops there.


class Checkpoints:
    """Save the network every few epochs, and stop once it is good enough.

    Parameters
    ----------
    folder : Path
        Folder for the files.
    X, y : array-like
        Rows to score the network on.
    every : int
        Number of epochs between two files.
    target : float
        Score at which to stop.
    """

    def __init__(self, folder, X, y, *, every, target):
        self.folder = folder
        self.X = X
        self.y = y
        self.every = every
        self.target = target

    def setup(self, estimator, context):
        """Prepare before fit; nothing to do here."""

    def on_fit_task_begin(self, estimator, context):
        """Prepare before the fit and before each epoch; nothing to do here."""

    # Asking for `fitted_estimator` fetches the parameters after every epoch.
    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Save and score after an epoch; return whether to stop."""
        n_epochs = context.task_id + 1
        if context.task_name != "epoch" or fitted_estimator is None:
            return False
        if n_epochs % self.every:
            return False
        path = self.folder / f"epoch-{n_epochs:03}.pickle"
        path.write_bytes(pickle.dumps(fitted_estimator.to_sklearn()))
        score = fitted_estimator.score(self.X, self.y)
        print(f"{path.name}  loss {estimator.loss_:.4f}  accuracy {score:.3f}")
        return score >= self.target

    def teardown(self, estimator, context):
        """Clean up after fit, also if it failed; nothing to do here."""


# %%
# Train on two workers, with scikit-learn's progress bar and this callback.

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
folder = tempfile.TemporaryDirectory()
checkpoints = Checkpoints(Path(folder.name), X_test, y_test, every=5, target=0.95)

cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
client.wait_for_workers(2)
clf = DistributedMLPClassifier(
    hidden_layer_sizes=(64, 64), engine="peers", random_state=0
)
clf.set_callbacks(ProgressBar(), checkpoints)
clf.fit(X_train, y_train)
print(f"stopped   after {clf.n_iter_} epochs")

# %%
# Load the last file. It needs neither skdistmlp nor a cluster.

*_, last = sorted(Path(folder.name).iterdir())
mlp = pickle.loads(last.read_bytes())
print(f"last file a {type(mlp).__name__}, accuracy {mlp.score(X_test, y_test):.3f}")

# %%
# Stop the workers, and delete the files.

client.shutdown()
folder.cleanup()
