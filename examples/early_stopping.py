"""Stop when the score of rows held out no longer improves, and look at the curves."""

import argparse
from pathlib import Path

import matplotlib
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skdistmlp import DistributedMLPClassifier


def main() -> None:
    """Train on two workers, print the outcome and draw the curves and the network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--png", type=Path, default=Path("early_stopping.png"))
    asked = parser.parse_args()
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    from skdistmlp.plotting import LossCurveDisplay, PartitionDisplay

    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    clf = DistributedMLPClassifier(
        (64, 64),
        early_stopping=True,
        engine="peers",
        parameter_threshold=0,
        random_state=0,
    )
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        clf.fit(X_train, y_train)
    print(f"stopped    after {clf.n_iter_} epochs")
    print(f"best       {clf.best_validation_score_:.3f} on rows held out")
    print(f"accuracy   {clf.score(X_test, y_test):.3f}")
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    LossCurveDisplay.from_estimator(clf, ax=left)
    PartitionDisplay.from_estimator(clf, ax=right)
    figure.savefig(asked.png)
    print(f"drawn      {asked.png}")


if __name__ == "__main__":
    main()
