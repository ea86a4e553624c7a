"""Fits and predicts on its own `LocalCluster`, each until Ctrl-C is pressed.

Run in a terminal, with the name of an engine. It prints ``ready: CALL`` when it is time
to press, and ``after CALL: OUTCOME`` then.
"""

import os
import signal
import sys
import threading
import time
import warnings

import numpy as np
from distributed import Client
from sklearn.exceptions import ConvergenceWarning

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.run.scatter import Scatterer


def say(*words):
    print(*words, flush=True)  # noqa: T201


def outcome_of(call, *args):
    """Call something; return the warnings or the error in which it ended."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            call(*args)
        except BaseException as error:
            return repr(error)
    return "; ".join(str(one.message) for one in warned)


def fit_held_while_placing(clf, X, y):
    """Fit, and wait before the first value is sent."""
    scatter = Scatterer.scatter

    def held(*args, **kwargs):
        say("ready: placing")
        threading.Event().wait(60)

    Scatterer.scatter = held
    try:
        clf.fit(X, y)
    finally:
        Scatterer.scatter = scatter


def say_when_it_predicts(client):
    while not any("predict" in str(keys) for keys in client.processing().values()):
        time.sleep(0.01)
    say("ready: predict")


def state_of_workers(client):
    """Return the processes of the workers, and what each does at SIGINT."""

    def state():
        return os.getpid(), repr(signal.getsignal(signal.SIGINT))

    return client.run(state)


def main(engine):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2_000, 64), dtype="f4")
    y = X[:, :10].argmax(1)
    clf = DistributedMLPClassifier(
        hidden_layer_sizes=(256, 256),
        engine=engine,
        parameter_threshold=0,
        max_iter=10**9,
        n_iter_no_change=np.inf,
        random_state=0,
    )
    with Client(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as client:
        before = state_of_workers(client)
        say("after placing:", outcome_of(fit_held_while_placing, clf, X, y))
        # Its second line is what the test takes for "ready: fit".
        clf.set_params(verbose=True)
        say("after fit:", outcome_of(clf.fit, X, y))
        say("kept epochs:", len(clf.loss_curve_) if np.isfinite(clf.loss_) else 0)
        clf.set_params(verbose=False, engine="futures")
        threading.Thread(target=say_when_it_predicts, args=[client]).start()
        say("after predict:", outcome_of(clf.predict, np.tile(X, (150, 1))))
        clf.set_params(max_iter=2, engine=engine).fit(X, y)
        say("once more on", clf.n_workers_, "workers")
        same = state_of_workers(client) == before
        say("workers are", "as before" if same else "others")


if __name__ == "__main__":
    main(sys.argv[1])
