"""Early stopping
==============

Stops training once the validation score no longer improves, and plots the loss, the
scores, and the network in the colours of its workers.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skdistmlp import DistributedMLPClassifier
from skdistmlp.plotting import LossCurveDisplay, PartitionDisplay


def main() -> None:
    """Train on two workers, print the results, and plot the curves and the network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plot", type=Path, help="file to write (default: show it)")
    arguments = parser.parse_args()
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    clf = DistributedMLPClassifier(
        (64, 64),
        early_stopping=True,
        engine="peers",
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
    print(f"best       {clf.best_validation_score_:.3f} validation score")
    print(f"accuracy   {clf.score(X_test, y_test):.3f}")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    LossCurveDisplay.from_estimator(clf, ax=left)
    PartitionDisplay.from_estimator(clf, ax=right)
    if arguments.plot is None:
        plt.show()
    else:
        figure.savefig(arguments.plot)
        print(f"plotted    {arguments.plot}")


if __name__ == "__main__":
    main()
