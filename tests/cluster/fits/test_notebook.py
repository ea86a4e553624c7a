"""The stop button of a notebook, in a real Jupyter kernel."""

import os
from contextlib import contextmanager

import pytest
from jupyter_client.manager import KernelManager

from tests.cluster.support import WITHIN_S
from tests.terminal import ROOT

FIT = """
import os
import numpy as np
from distributed import Client
from skdistmlp import DistributedMLPClassifier

client = Client(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
before = client.run(os.getpid)
clf = DistributedMLPClassifier(
    hidden_layer_sizes=(64, 64),
    engine=ENGINE,
    parameter_threshold=0,
    max_iter=10**9,
    n_iter_no_change=np.inf,
    verbose=True,
)
clf.fit(np.eye(50), np.arange(50) % 2)
print("ended after", len(clf.loss_curve_), "epochs")
"""

AGAIN = """
clf.set_params(max_iter=2, verbose=False).fit(np.eye(50), np.arange(50) % 2)
print("same workers:", client.run(os.getpid) == before)
client.shutdown()
"""


class Notebook:
    """A kernel, what it has printed, and the number of pictures that it has shown."""

    def __init__(self, manager, client):
        self.n_pictures = 0
        self._manager = manager
        self._client = client

    def run(self, cell, stop_at=None, within_s=WITHIN_S):
        """Run a cell; press the stop button once it has printed something."""
        printed = ""
        self._client.execute(cell)
        while True:
            message = self._client.get_iopub_msg(timeout=within_s)
            content = message["content"]
            assert message["msg_type"] != "error", "\n".join(content["traceback"])
            if message["msg_type"] == "stream":
                printed += content["text"]
            if message["msg_type"] == "display_data":
                self.n_pictures += "image/png" in content["data"]
            if stop_at is not None and stop_at in printed:
                self._manager.interrupt_kernel()
                stop_at = None
            if content.get("execution_state") == "idle":
                assert stop_at is None, printed
                return printed


@contextmanager
def notebook(folder=None):
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=folder)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=WITHIN_S)
        yield Notebook(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["peers", "futures"])
def test_the_stop_button_keeps_the_parameters_and_the_cluster(engine):
    with notebook() as opened:
        cell = f"ENGINE = {engine!r}\n{FIT}"
        printed = opened.run(cell, stop_at="Iteration 2,")
        assert "Training interrupted by user." in printed
        assert "ended after" in printed
        assert "same workers: True" in opened.run(AGAIN)
