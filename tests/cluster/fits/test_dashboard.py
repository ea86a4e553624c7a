"""What Dask's dashboard shows of fits and predictions: its own pages are asked for."""

import logging
import re
import threading
from collections import defaultdict
from functools import partial
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from distributed import Client, LocalCluster

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.peers.worker import METRIC
from skdistmlp.cluster.run.graph import MEASURE, PREDICT, TRAIN
from tests.cluster.peers.test_driver import stop_all
from tests.cluster.support import WITHIN_S, in_thread, wait_until
from tests.marks import only_quick

PAGES = ["groups", "status", "graph", "individual-task-stream", "workers"]

CASES = {
    "peers": {"engine": "peers"},
    "replicas": {"engine": "peers", "n_replicas": 2},
    "early stopping": {"engine": "peers", "early_stopping": True},
    "futures": {"engine": "futures"},
    "futures, early stopping": {"engine": "futures", "early_stopping": True},
    "futures, clipped": {"engine": "futures", "max_grad_norm": 1.0},
    "futures, lbfgs": {"engine": "futures", "solver": "lbfgs"},
}

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(600, 20)), rng.integers(0, 3, 600)


def classifier(client, **options):
    clf = DistributedMLPClassifier((16, 16), random_state=0, client=client)
    return clf.set_params(**{"max_iter": 4, "n_iter_no_change": 99, **options})


def fit_and_predict(client, **options):
    classifier(client, **options).fit(X, Y).predict(X)


def groups(dask_scheduler):
    """Return the groups of tasks, with those that each depends on."""
    return {
        name: {other.name for other in group.dependencies}
        for name, group in dask_scheduler.task_groups.items()
    }


@pytest.mark.parametrize("case", only_quick(2, 4, cases=CASES))
def test_groups_depend_on_none_that_may_be_gone_or_depends_on_them(client, case):
    """Dask's page of groups can draw neither."""
    seen, ended = [], threading.Event()

    def look():
        while not ended.is_set():
            seen.append(client.run_on_scheduler(groups))

    looking = in_thread(look)
    try:
        with pytest.warns(match="Maximum|lbfgs failed"):
            # On a busy machine, a look may take longer than a fit.
            wait_until(
                lambda: (
                    fit_and_predict(client, **CASES[case])
                    or any(TRAIN in each for each in seen)
                ),
                "a fit is seen",
            )
    finally:
        ended.set()
        looking.result(60)
    assert {name for each in seen for name in each} <= {TRAIN, PREDICT, MEASURE}
    for each in seen:
        assert all(others <= {name} for name, others in each.items())


def test_the_page_on_workers_shows_epochs(client):
    def shown():
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        return [found for one in workers if (found := one["metrics"].get(METRIC))]

    def look():
        found = shown()
        return found and re.fullmatch(r"\d+ \(loss \d\.\d+\)", found[0])

    clf = DistributedMLPClassifier(
        (16, 16), max_iter=100_000, tol=0, n_iter_no_change=10**9, client=client
    )
    clf.set_params(engine="peers", n_workers=2)
    fit = in_thread(clf.fit, X, Y)
    wait_until(look, "an epoch is shown", fit)
    first = shown()
    wait_until(lambda: shown() not in (first, []), "it goes on", fit)
    with pytest.warns(UserWarning, match="interrupted"):
        stop_all(client, fit)
    wait_until(lambda: not shown(), "nothing is shown after the fit")


def sizes(name, dask_worker):
    """Return the bytes of the values of a name, as a worker reports them."""
    tasks = dask_worker.state.tasks
    keys = [key for key in dask_worker.data if key[1].startswith(name)]
    return [tasks[key].nbytes for key in keys if key in tasks]


def test_values_say_how_large_they_are(client):
    """Otherwise the page on workers would take their memory for unmanaged."""
    rows = rng.normal(size=(10_000, 100))
    clf = DistributedMLPClassifier((1000,), max_iter=1, engine="futures")
    clf.set_params(client=client, n_workers=2)
    with pytest.warns(match="Maximum"):
        clf.fit(rows, np.arange(10_000) % 2)
    clf.predict(rows[:10])
    # They stay for the next fit, and the shards for the next prediction.
    held = {name: client.run(sizes, name).values() for name in ("rows", "shard")}
    n_parameters = 100 * 1000 + 1000 + 1000 + 1
    for found, n_bytes in (("rows", rows.nbytes), ("shard", n_parameters / 2 * 8)):
        whole = [each for each in held[found] if each and max(each) > 0.99 * n_bytes]
        assert len(whole) == 2, held


@pytest.fixture(scope="module")
def dashboard():
    """A cluster in this process, whose scheduler's errors are logged here."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client, cluster.dashboard_link.removesuffix("status")


def is_training(dask_scheduler):
    """Say whether a worker runs a task of a fit. Rows stay when there is none."""
    return any(
        task.state == "processing" and task.group_key == TRAIN
        for task in dask_scheduler.tasks.values()
    )


def ask(url):
    """Return the status of a page, and whether there is anything on it."""
    try:
        with urlopen(url, timeout=WITHIN_S) as answer:
            return answer.status, len(answer.read()) > 1000
    except HTTPError as error:
        return error.code, False


def errors(logs):
    return [each.getMessage() for each in logs.records if each.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "name",
    ["distributed.dashboard", "bokeh.util.tornado", "tornado.application", "asyncio"],
)
def test_errors_of_pages_would_be_seen(all_logs, name):
    logging.getLogger(name).error("planted")
    assert errors(all_logs) == ["planted"]


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer|lbfgs failed")
@pytest.mark.slow
@pytest.mark.parametrize("case", ["peers", "futures"])
def test_pages_can_be_opened_during_a_fit(dashboard, case, all_logs):
    client, url = dashboard
    n_epochs = 600 if CASES[case]["engine"] == "peers" else 10
    options = {"max_iter": n_epochs, "n_iter_no_change": n_epochs, **CASES[case]}
    answers = defaultdict(set)
    fitted, ended = [], threading.Event()

    def fit_until_ended():
        while not ended.is_set():
            fitted.append(classifier(client, **options).fit(X, Y))
            fitted[-1].predict(X)

    def ask_during_a_fit(page):
        """Ask for a page; return whether one fit trained until it was there."""
        n_fitted = len(fitted)
        wait_until(lambda: client.run_on_scheduler(is_training), "a fit trains", fits)
        answers[page].add(ask(url + page))
        return len(fitted) == n_fitted

    fits = in_thread(fit_until_ended)
    try:
        # Once, if that was during a fit: pages that were asked for are renewed for a
        # while, which slows fits.
        for page in PAGES:
            wait_until(partial(ask_during_a_fit, page), f"{page} is there", fits)
        # Renewed too, while a fit ends and while another one begins and ends.
        n_fitted = len(fitted)
        wait_until(lambda: len(fitted) > n_fitted + 1, "two fits end", fits)
    finally:
        ended.set()
    fits.result(WITHIN_S)
    assert answers == {page: {(200, True)} for page in PAGES}
    assert errors(all_logs) == []
