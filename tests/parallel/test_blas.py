import threading

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from skdistmlp.parallel.blas import blas_threads


def limits():
    return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        yield


def test_the_thread_limit_holds_inside_and_is_restored():
    with blas_threads(1):
        assert limits() == {1}
    assert limits() == {2}


def test_the_thread_limit_is_restored_after_an_error():
    with pytest.raises(ZeroDivisionError), blas_threads(1):
        raise ZeroDivisionError
    assert limits() == {2}


def test_the_last_of_several_users_restores_the_limit():
    entered, leave = threading.Event(), threading.Event()

    def other():
        with blas_threads(1):
            entered.set()
            assert leave.wait(30)

    thread = threading.Thread(target=other)
    with blas_threads(1):
        thread.start()
        assert entered.wait(30)
    assert limits() == {1}, "somebody still needs the limit"
    leave.set()
    thread.join(30)
    assert limits() == {2}
