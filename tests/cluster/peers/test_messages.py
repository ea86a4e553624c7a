"""What shards tell the client while they train."""

import asyncio

import pytest
from distributed import Client

from tests.cluster.forked import ForkedProcesses
from tests.cluster.leaks import assert_nothing_left
from tests.cluster.peers.test_driver import classifier
from tests.cluster.support import bounded


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_messages_arrive_from_a_new_scheduler_too(tmp_path, digits, capsys):
    """Of the client Dask's new scheduler knows nothing but that it is there.

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
