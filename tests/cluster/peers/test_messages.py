"""Messages of shards to the client while they train."""

import asyncio
import pickle
import queue

import pytest
from distributed import Client
from distributed.protocol import dumps, loads

from skdistmlp.cluster.peers.messages import (
    ProgressLine,
    Sender,
    ShardMet,
    ShardRunning,
    decode,
    encode,
    messages_of,
)
from tests.cluster.forked import ForkedProcesses
from tests.cluster.leaks import assert_nothing_left
from tests.cluster.peers.test_driver import classifier
from tests.cluster.support import WITHIN_S, bounded

MESSAGES = [ProgressLine("Iteration 1, loss = 0.5"), ShardRunning(2, 7), ShardMet(0, 1)]


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_messages_travel_as_plain_values(message):
    encoded = encode("a run", message)
    assert encoded["run"] == "a run"
    # As Dask sends them: without a pickle, msgpack has to know every type.
    (arrived,) = loads(dumps([encoded], serializers=["msgpack"]))
    assert decode(arrived) == message


def test_a_client_hears_of_its_own_runs_only(client):
    def task(runs):
        for run in runs:
            sender = pickle.loads(pickle.dumps(Sender(run, 2)))
            sender.running(7)
            sender.progress("a line")
            sender.met(7)

    mine, another = queue.SimpleQueue(), queue.SimpleQueue()
    with messages_of(client, "mine", mine), messages_of(client, "another", another):
        client.submit(task, ["theirs", "mine"], pure=False).result(WITHIN_S)
        heard = [mine.get(timeout=WITHIN_S) for _ in range(3)]
        client.submit(task, ["another"], pure=False).result(WITHIN_S)
        another.get(timeout=WITHIN_S)
    assert heard == [ShardRunning(2, 7), ProgressLine("a line"), ShardMet(2, 7)]
    assert mine.empty()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.slow
def test_messages_arrive_from_a_new_scheduler_too(tmp_path, digits, capsys):
    """Dask's new scheduler knows only that the client exists.

    Not even that, for a while, if the workers are quicker than the client.
    """
    X, y = digits[0][:300], digits[1][:300]
    with (
        ForkedProcesses(tmp_path, {}) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        reconnect = client._ensure_connected

        async def reconnect_late(**kwargs):
            await asyncio.sleep(4)
            await reconnect(**kwargs)

        client._ensure_connected = reconnect_late
        for is_replaced in (False, True):
            if is_replaced:
                cluster.replace_scheduler()
            cluster.have_workers(2)
            clf = classifier(client, verbose=True)
            bounded(clf.fit, X, y)
            lines = capsys.readouterr().out.splitlines()
            assert lines[:3] == [
                f"Iteration {number}, loss = {loss:.8f}"
                for number, loss in enumerate(clf.loss_curve_, 1)
            ]
            assert_nothing_left(client)
