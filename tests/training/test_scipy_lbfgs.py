"""The conversation with SciPy's L-BFGS on a function with a known minimum."""

import gc
import threading

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.optimize import rosen, rosen_der

from skdistmlp.training import scipy_lbfgs
from skdistmlp.training.scipy_lbfgs import (
    Iterate,
    LbfgsOptions,
    run_scipy,
    search_in_thread,
)

START = np.array([1.3, 0.7, 0.8, 1.9, 1.2])
OPTIONS = LbfgsOptions(max_iter=100, max_fun=200, tol=1e-5)


def rosenbrock(x):
    return float(rosen(x)), rosen_der(x)


def searching():
    """Return the threads of searches that have not ended."""
    return [t for t in threading.enumerate() if t.name == "skdistmlp-lbfgs"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not searching()


def answered(search, answer=rosenbrock):
    """Answer a search to its end; return every request, and the result."""
    requests = [next(search)]
    while True:
        try:
            requests.append(search.send(answer(requests[-1].x)))
        except StopIteration as stop:
            return requests, stop.value


def assert_same_result(found, expected):
    assert_array_equal(found.x, expected.x)
    for name in ("fun", "nit", "nfev", "status", "message"):
        assert found[name] == expected[name], name


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        LbfgsOptions(max_iter=5, max_fun=200, tol=1e-5),
        LbfgsOptions(max_iter=100, max_fun=9, tol=1e-5),
    ],
    ids=["tol", "max_iter", "max_fun"],
)
def test_a_conversation_finds_what_a_call_finds(options):
    requests, found = answered(search_in_thread(START, options))
    expected = run_scipy(rosenbrock, START, options)
    assert_same_result(found, expected)
    assert len(requests) == expected.nfev
    # The last iteration ends with the search, not with a request.
    ended = [request.ended for request in requests if request.ended is not None]
    assert [iterate.n_iter for iterate in ended] == list(range(1, expected.nit))


def test_an_iteration_ends_where_a_search_of_that_many_ends():
    requests, _ = answered(search_in_thread(START, OPTIONS))
    ended = [request.ended for request in requests if request.ended is not None]
    assert len(ended) > 5
    for iterate in ended:
        options = LbfgsOptions(iterate.n_iter, OPTIONS.max_fun, OPTIONS.tol)
        alone = run_scipy(rosenbrock, START, options)
        assert_array_equal(iterate.parameters, alone.x)
        expected = Iterate(alone.nit, alone.fun, iterate.parameters, alone.nfev)
        assert iterate == expected


def test_a_search_that_has_converged_asks_once():
    requests, found = answered(search_in_thread(np.ones(5), OPTIONS))
    assert [request.ended for request in requests] == [None]
    assert found.nit == 0
    assert_array_equal(found.x, np.ones(5))


def test_the_thread_begins_with_the_first_request():
    search = search_in_thread(START, OPTIONS)
    assert not searching()
    next(search)
    assert len(searching()) == 1
    search.close()


@pytest.mark.parametrize("n_answers", [0, 1, 7])
def test_a_closed_search_ends_its_thread(n_answers):
    search = search_in_thread(START, OPTIONS)
    request = next(search)
    for _ in range(n_answers):
        request = search.send(rosenbrock(request.x))
    search.close()
    assert not searching()


def test_a_forgotten_search_ends_its_thread_without_garbage_collection():
    gc.disable()
    try:
        search = search_in_thread(START, OPTIONS)
        next(search)
        del search
        assert not searching()
    finally:
        gc.enable()


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_thrown_into_a_search_ends_its_thread(raised):
    search = search_in_thread(START, OPTIONS)
    next(search)
    with pytest.raises(raised):
        search.throw(raised)
    assert not searching()


def test_an_error_of_scipy_is_raised_here():
    search = search_in_thread(np.ones((2, 2)), OPTIONS)
    with pytest.raises(ValueError, match="'x0' must only have one dimension"):
        next(search)
    assert not searching()


def test_scipy_handles_numpys_errors_as_the_caller_does(monkeypatch):
    seen = []

    def look(evaluate, start, *_):
        seen.append(np.geterr()["divide"])
        return evaluate(start)

    monkeypatch.setattr(scipy_lbfgs, "run_scipy", look)
    with np.errstate(divide="raise"):
        answered(search_in_thread(START, OPTIONS))
    assert seen == ["raise"]
