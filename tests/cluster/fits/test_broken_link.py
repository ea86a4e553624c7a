"""A connection to the scheduler that breaks in a fit, and is there again later."""

import re

import numpy as np
import pytest
from distributed import Client

from skdistmlp import ClusterError, DistributedMLPClassifier
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.link import Link
from tests.cluster.support import (
    WITHIN_S,
    bounded,
    in_thread,
    task_keys,
    wait_until,
)
from tests.marks import only_quick

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def classifier(client, engine, **parameters):
    return DistributedMLPClassifier(
        hidden_layer_sizes=(9, 8),
        batch_size=100,
        random_state=0,
        client=client,
        engine=engine,
        parameter_threshold=0,
        **parameters,
    )


@pytest.mark.parametrize(
    ("engine", "at_once"),
    only_quick(
        0,
        3,
        cases=[
            ("peers", False),
            ("peers", True),
            ("futures", False),
            ("futures", True),
        ],
    ),
)
def test_a_fit_says_that_it_lost_the_scheduler_and_later_ones_are_right(
    processes, digits, engine, at_once
):
    """Whether or not the connection is there again when the fit notices."""
    X, y = digits[0][:300], digits[1][:300]
    endless = {"max_iter": 10**9, "tol": 0.0, "n_iter_no_change": 10**9}
    with (
        Client(processes.address, set_as_default=False) as other,
        Link(processes.address) as link,
        Client(link.address, set_as_default=False) as client,
    ):
        remember(other)
        clf = classifier(client, engine, **endless)
        fitting = in_thread(clf.fit, X, y)
        wait_until(lambda: is_training(other), "it trains", fitting)
        link.cut()
        if at_once:
            # Not earlier: Dask confuses the two connections, and may close both.
            wait_until(lambda: not is_known(other, client), "the scheduler has noticed")
            link.mend()
        error = fitting.exception(WITHIN_S)
        link.mend()
        assert isinstance(error, ClusterError)
        # Which of them depends on when the fit notices.
        assert re.match(
            r"the connection to the scheduler at .*, or to a worker, broke while "
            r"|the client was closed or lost its connection to the scheduler .* while "
            r"|the cluster dropped the data of this call while ",
            str(error),
        )
        assert re.search(r"[Cc]all again", str(error))
        clf.set_params(max_iter=2)
        here = classifier(None, "local", **endless).set_params(max_iter=2)
        wait_until(lambda: fits(clf, X, y), "a fit ends")
        for mine, others in zip(clf.coefs_, here.fit(X, y).coefs_, strict=True):
            np.testing.assert_allclose(mine, others, rtol=1e-6)
        assert_nothing_left(client)


def is_known(client, other):
    """Say whether the scheduler takes another client for connected."""
    return client.run_on_scheduler(
        lambda name, dask_scheduler: name in dask_scheduler.clients, other.id
    )


def fits(clf, X, y):
    """Fit; say whether that went well.

    A client may notice that its connection broke only after it was mended.
    """
    try:
        bounded(clf.fit, X, y)
    except ClusterError:
        return False
    return True


def is_training(client):
    """Say whether a step has begun: the data is there by then."""
    names = [str(key[1]) for key in task_keys(client)]
    return any(name.startswith(("train", "update")) for name in names)
