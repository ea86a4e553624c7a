"""Successive halving that continues
=================================

Trains every candidate for a few epochs, continues with the best third for longer, and
so on. scikit-learn's ``HalvingGridSearchCV`` does this with ``resource="max_iter"``,
but trains each candidate from scratch in every rung. Here ``partial_fit`` continues.
"""

import pickle

from distributed import Client, SubprocessCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import ParameterGrid, train_test_split

from skdistmlp import DistributedMLPClassifier

FACTOR = 3
GRID = {
    "learning_rate_init": [1e-4, 1e-3, 1e-2],
    "alpha": [1e-4, 1e-1, 10.0],
}

X, y = load_digits(return_X_y=True)
X_rest, X_test, y_rest, y_test = train_test_split(X / 16, y, random_state=0)
X_train, X_val, y_train, y_val = train_test_split(X_rest, y_rest, random_state=0)

# %%
# All state of training is in the estimator. So the candidates are pickled between two
# rungs, and could be continued another day.


def run_rung(candidates, n_epochs, engine):
    """Continue training pickled candidates; return them and scores, best first."""
    ranking = []
    for pickled in candidates:
        clf = pickle.loads(pickled).set_params(engine=engine)
        while len(getattr(clf, "loss_curve_", ())) < n_epochs:
            clf.partial_fit(X_train, y_train, classes=range(10))
        ranking.append((clf.score(X_val, y_val), clf))
    # The sort is stable: of equal candidates, the earlier one stays ahead.
    ranking.sort(key=lambda pair: pair[0], reverse=True)
    print(f"rung of {len(ranking)}, {n_epochs} epochs, {engine}")
    for place, (score, clf) in enumerate(ranking, 1):
        print(
            f"  {place}  accuracy {score:.3f}  "
            f"rate={clf.learning_rate_init:<6g} alpha={clf.alpha:g}"
        )
    return ranking


# %%
# The first rung trains nine candidates for two epochs, in this process.

candidates = [
    pickle.dumps(DistributedMLPClassifier((64, 64), random_state=0, **parameters))
    for parameters in ParameterGrid(GRID)
]
ranking = run_rung(candidates, 2, "local")

# %%
# The later rungs run on a cluster, which has no effect on the scores.

cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
client.wait_for_workers(2)
for n_epochs in (2 * FACTOR, 2 * FACTOR**2):
    n_kept = len(ranking) // FACTOR
    candidates = [pickle.dumps(clf) for _, clf in ranking[:n_kept]]
    ranking = run_rung(candidates, n_epochs, "peers")
client.shutdown()

# %%
# One candidate is left.

_, best = ranking[0]
print(f"chosen    rate={best.learning_rate_init:g}, alpha={best.alpha:g}")
print(f"accuracy  {best.score(X_test, y_test):.3f} on unseen digits")
