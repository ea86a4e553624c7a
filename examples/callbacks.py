"""A progress bar and a custom callback
====================================

Shows the progress of training, saves the network after every fifth epoch, and stops
once it classifies held-out digits well enough. Callbacks run in this process while the
workers train.
"""

import pickle
import tempfile
from pathlib import Path

from distributed import Client, LocalCluster
from sklearn.callback import ProgressBar
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skdistmlp import DistributedMLPClassifier


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


def main() -> None:
    """Train on two workers until the score suffices, and load the last file."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    clf = DistributedMLPClassifier(
        hidden_layer_sizes=(64, 64), engine="peers", random_state=0
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        checkpoints = Checkpoints(Path(folder), X_test, y_test, every=5, target=0.95)
        clf.set_callbacks(ProgressBar(), checkpoints)
        clf.fit(X_train, y_train)
        *_, last = sorted(Path(folder).iterdir())
        mlp = pickle.loads(last.read_bytes())
    print(f"stopped   after {clf.n_iter_} epochs")
    print(f"last file a {type(mlp).__name__}, accuracy {mlp.score(X_test, y_test):.3f}")


if __name__ == "__main__":
    main()
