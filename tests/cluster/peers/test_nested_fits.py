"""A fit inside a callback of another is refused if it wants the same workers."""

import pytest

from skdistmlp.cluster.peers.nested_fits import calling_back, check_not_nested
from skdistmlp.exceptions import ClusterError
from tests.cluster.support import in_thread


def test_workers_are_refused_in_a_callback_of_a_fit_that_holds_them():
    with calling_back(("tcp://a:1", "tcp://b:1")):
        check_not_nested(("tcp://c:1",))
        with pytest.raises(ClusterError, match="that holds workers tcp://b:1; it"):
            check_not_nested(("tcp://b:1", "tcp://c:1"))
        # Another thread's fit waits for its turn.
        in_thread(check_not_nested, ("tcp://b:1",)).result(10)
    check_not_nested(("tcp://b:1",))


def test_an_error_in_a_callback_ends_it():
    with pytest.raises(RuntimeError), calling_back(("tcp://a:1",)):
        raise RuntimeError
    check_not_nested(("tcp://a:1",))
