"""A bar, and a callback of one's own
==================================

Shows how far training has come, saves the network after every fifth epoch, and ends
training once digits that were held out are known well enough. Callbacks are called in
this process, while the workers train.
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
    """Save the network every few epochs, and stop when it is good enough.

    Parameters
    ----------
    folder : Path
        Where to save it.
    X, y : array-like
        Rows to score it on.
    every : int
        Epochs from one file to the next.
    enough : float
        The score to stop at.
    """

    def __init__(self, folder, X, y, *, every, enough):
        self.folder = folder
        self.X = X
        self.y = y
        self.every = every
        self.enough = enough

    def setup(self, estimator, context):
        """Begin; there is nothing to prepare."""

    def on_fit_task_begin(self, estimator, context):
        """Begin a fit, or an epoch of it."""

    # Since this asks for `fitted_estimator`, weights are brought after every epoch.
    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """End an epoch, or the fit; return whether to stop."""
        n_epochs = context.task_id + 1
        if context.task_name != "epoch" or fitted_estimator is None:
            return False
        if n_epochs % self.every:
            return False
        path = self.folder / f"epoch-{n_epochs:03}.pickle"
        path.write_bytes(pickle.dumps(fitted_estimator.to_sklearn()))
        score = fitted_estimator.score(self.X, self.y)
        print(f"{path.name}  loss {estimator.loss_:.4f}  accuracy {score:.3f}")
        return score >= self.enough

    def teardown(self, estimator, context):
        """End, also after an error; there is nothing to put away."""


def main() -> None:
    """Train on two workers until it is enough, and load what was saved last."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    clf = DistributedMLPClassifier((64, 64), parameter_threshold=0, random_state=0)
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        checkpoints = Checkpoints(Path(folder), X_test, y_test, every=5, enough=0.95)
        clf.set_callbacks(ProgressBar(), checkpoints)
        clf.fit(X_train, y_train)
        *_, last = sorted(Path(folder).iterdir())
        mlp = pickle.loads(last.read_bytes())
    print(f"stopped   after {clf.n_iter_} epochs")
    print(f"the last  a {type(mlp).__name__}, accuracy {mlp.score(X_test, y_test):.3f}")


if __name__ == "__main__":
    main()
