"""The errors of the package, and which of them a user can catch together."""

import pickle

import pytest

import skdistmlp
from skdistmlp import exceptions

PUBLIC = [getattr(skdistmlp, name) for name in skdistmlp.__all__ if "Error" in name]


def test_public_errors_are_those_of_the_module():
    defined = {
        value
        for value in vars(exceptions).values()
        if isinstance(value, type) and issubclass(value, exceptions.SkdistmlpError)
    }
    assert defined == set(PUBLIC)


@pytest.mark.parametrize("error", PUBLIC)
def test_every_error_is_a_skdistmlp_error(error):
    assert issubclass(error, skdistmlp.SkdistmlpError)
    assert not issubclass(error, ValueError | TypeError)


@pytest.mark.parametrize("error", [skdistmlp.WorkerLostError, skdistmlp.ExchangeError])
def test_faults_of_workers_and_exchanges_are_cluster_errors(error):
    assert issubclass(error, skdistmlp.ClusterError)


@pytest.mark.parametrize("error", PUBLIC)
def test_errors_survive_pickling_with_message_and_notes(error):
    """They are raised in workers and reach the caller through Dask."""
    raised = error("what is wrong")
    raised.add_note("where")
    received = pickle.loads(pickle.dumps(raised))
    assert type(received) is error
    assert str(received) == "what is wrong"
    assert received.__notes__ == ["where"]


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 rows"), (1, "1 row"), (2000, "2,000 rows")]
)
def test_a_number_comes_with_its_noun(number, said):
    assert exceptions.counted(number, "row") == said


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("worker tcp://127.0.0.1:9 was lost; it is gone. Call again.", "was lost"),
        ("no answer within 0.5 s: it hangs. Call again.", "within 0.5 s: it hangs"),
        ("the client is closed.", "the client is closed"),
        ("cancelled", "cancelled"),
    ],
)
def test_what_happened_is_told_without_advice(message, said):
    assert exceptions.what_happened(exceptions.ClusterError(message)).endswith(said)
