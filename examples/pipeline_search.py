"""Grid search over a pipeline
===========================

Searches over a parameter of the network and over numbers of workers, in a pipeline that
scales the features. The name of each parameter starts with the name of its step.

Candidates that differ only in the number of workers score the same, since results do
not depend on how a network is split. ``FastestWithin`` chooses the fastest of those
that score about as well as the best.
"""

from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import DistributedMLPClassifier, FastestWithin


def main() -> None:
    """Search, print the results, and score the chosen network on unseen digits."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    pipeline = make_pipeline(
        StandardScaler(),
        DistributedMLPClassifier(
            (128,), engine="peers", tol=1e-2, n_iter_no_change=3, random_state=0
        ),
    )
    search = GridSearchCV(
        pipeline,
        {
            "distributedmlpclassifier__alpha": [1e-4, 10.0],
            "distributedmlpclassifier__n_workers": [1, 2],
        },
        cv=3,
        refit=FastestWithin(0.005),
    )
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        search.fit(X_train, y_train)
    results = search.cv_results_
    for parameters, score, fit_s in zip(
        results["params"],
        results["mean_test_score"],
        results["mean_fit_time"],
        strict=True,
    ):
        alpha, n_workers = parameters.values()
        print(
            f"alpha={alpha:<6g} n_workers={n_workers}  "
            f"accuracy {score:.3f}  {fit_s:.2f} s per fit"
        )
    chosen = search.best_estimator_[-1]
    print(f"chosen    alpha={chosen.alpha:g}, n_workers={chosen.n_workers}")
    print(f"accuracy  {search.score(X_test, y_test):.3f} on unseen digits")


if __name__ == "__main__":
    main()
