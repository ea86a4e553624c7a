"""A step calls the operations of a network in one order, whatever they do."""

import ast
import inspect
import textwrap
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdistmlp.parallel.ops import OpenNetwork
from skdistmlp.training.step import (
    announce,
    backpropagate,
    forward_pass,
    predict_blocks,
    training_step,
)


class Noted:
    """Operations of two layers that note their calls; a value is its name."""

    layers = range(2)

    def __init__(self):
        self.calls = []

    def expect(self, rows):
        self.calls.append(("expect", rows))

    def inputs(self, rows):
        self.calls.append(("inputs", rows))
        return "X"

    def forward(self, layer, value, *, training):
        self.calls.append(("forward", layer, value, training))
        return f"a{layer}"

    def output_delta(self, logits, rows, batch):
        self.calls.append(("output_delta", logits, rows, batch))
        return "d1"

    def backward(self, layer, value, delta):
        self.calls.append(("backward", layer, value, delta))
        return f"d{layer - 1}"

    def update(self, rows, learning_rate):
        self.calls.append(("update", rows, learning_rate))


@pytest.mark.parametrize("n_batches", range(4))
def test_each_batch_is_announced_one_step_before(n_batches):
    ops = Noted()
    for batch in announce(ops, range(n_batches)):
        ops.inputs(batch)
    expected = []
    for batch in range(n_batches):
        if batch + 1 < n_batches:
            expected.append(("expect", batch + 1))
        expected.append(("inputs", batch))
    assert ops.calls == expected


def test_a_step_goes_forward_backward_and_updates():
    ops = Noted()
    training_step(ops, "rows", 0.5)
    assert ops.calls == [
        ("inputs", "rows"),
        ("forward", 0, "X", True),
        ("forward", 1, "a0", True),
        ("output_delta", "a1", "rows", "rows"),
        ("backward", 1, "a0", "d1"),
        ("backward", 0, "X", "d0"),
        ("update", "rows", 0.5),
    ]


def test_the_loss_may_be_averaged_over_more_rows_than_those_computed():
    ops = Noted()
    backpropagate(ops, "some", "all")
    assert ("output_delta", "a1", "some", "all") in ops.calls
    assert not [call for call in ops.calls if call[0] == "update"]


def test_a_prediction_goes_forward_only():
    ops = Noted()
    assert forward_pass(ops, "rows") == "a1"
    assert ops.calls == [
        ("inputs", "rows"),
        ("forward", 0, "X", False),
        ("forward", 1, "a0", False),
    ]


def test_blocks_are_predicted_in_their_order_and_as_they_are_asked_for():
    ops, asked = Noted(), []

    class Outputs:
        def predictions(self, logits):
            for number, value in enumerate(logits):
                assert value == "a1"
                asked.append(sum(name != "expect" for name, *_ in ops.calls))
                yield np.full((2, 1), number)

    network = OpenNetwork(None, ops, Outputs(), None, None, None, None)
    assert_array_equal(predict_blocks(network, ["a", "b"])[:, 0], [0, 0, 1, 1])
    assert asked == [3, 6]


def test_the_page_on_the_architecture_shows_the_step():
    page = Path(__file__).parents[2] / "docs" / "architecture.md"
    source = inspect.getsource(backpropagate)
    (function,) = ast.parse(source).body
    docstring, *_ = function.body
    body = "\n".join(source.splitlines()[docstring.end_lineno :])
    assert f"```python\n{textwrap.dedent(body)}\n```" in page.read_text()
