"""Grid search over a pipeline
===========================

Searches over a parameter of the network and over numbers of workers, in a pipeline that
scales the features.
"""

from distributed import Client, SubprocessCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import DistributedMLPClassifier, FastestWithin

# %%
# The name of each parameter in the search starts with the name of its step.

pipeline = make_pipeline(
    StandardScaler(),
    DistributedMLPClassifier(
        (128,), engine="peers", tol=1e-2, n_iter_no_change=3, random_state=0
    ),
)
grid = {
    "distributedmlpclassifier__alpha": [1e-4, 10.0],
    "distributedmlpclassifier__n_workers": [1, 2],
}

# %%
# Candidates that differ only in the number of workers score the same, since results do
# not depend on how a network is split. ``FastestWithin`` chooses the fastest of those
# that score about as well as the best.

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
client.wait_for_workers(2)
# The first fit imports the package on the workers, which no candidate should pay for.
pipeline.fit(X_train, y_train)
search = GridSearchCV(pipeline, grid, cv=3, refit=FastestWithin(0.005))
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

# %%
# The chosen candidate was trained on all rows of the search.

chosen = search.best_estimator_[-1]
print(f"chosen    alpha={chosen.alpha:g}, n_workers={chosen.n_workers}")
print(f"accuracy  {search.score(X_test, y_test):.3f} on unseen digits")

# %%
# Stop the workers.

client.shutdown()
