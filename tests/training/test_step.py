"""The operations of a step, in the order in which every engine performs them."""

from types import SimpleNamespace

import numpy as np
from numpy.testing import assert_array_equal

from skdistmlp.training.step import (
    backpropagate,
    forward_pass,
    predict_blocks,
    training_step,
)

ROWS, BATCH = slice(2, 4), slice(0, 8)


class RecordedOps:
    """Operations of three layers, which only record their calls."""

    layers = range(3)

    def __init__(self):
        self.calls = []

    def inputs(self, rows):
        self.calls.append(("inputs", rows))
        return "x0"

    def forward(self, layer, value, *, training):
        self.calls.append(("forward", layer, value, training))
        return f"x{layer + 1}"

    def output_delta(self, logits, rows, batch):
        self.calls.append(("output_delta", logits, rows, batch))
        return "d2"

    def backward(self, layer, value, delta):
        self.calls.append(("backward", layer, value, delta))
        return f"d{layer - 1}"

    def update(self, rows, learning_rate):
        self.calls.append(("update", rows, learning_rate))


def forward_calls(rows, training):
    return [
        ("inputs", rows),
        *(("forward", layer, f"x{layer}", training) for layer in range(3)),
    ]


def backward_calls(rows, batch):
    return [
        ("output_delta", "x3", rows, batch),
        *(("backward", layer, f"x{layer}", f"d{layer}") for layer in (2, 1, 0)),
    ]


def test_backpropagation_goes_forward_and_then_backward_through_all_layers():
    ops = RecordedOps()
    backpropagate(ops, ROWS, BATCH)
    assert ops.calls == forward_calls(ROWS, True) + backward_calls(ROWS, BATCH)


def test_a_training_step_ends_with_one_update_by_its_own_rows():
    ops = RecordedOps()
    training_step(ops, ROWS, 0.25)
    assert ops.calls == [
        *forward_calls(ROWS, True),
        *backward_calls(ROWS, ROWS),
        ("update", ROWS, 0.25),
    ]


def test_a_forward_pass_returns_logits_and_keeps_nothing_for_training():
    ops = RecordedOps()
    assert forward_pass(ops, ROWS) == "x3"
    assert ops.calls == forward_calls(ROWS, False)


def test_blocks_are_predicted_one_after_the_other_and_concatenated():
    ops, drawn = RecordedOps(), []

    def predictions(logits):
        for number, block in enumerate(logits):
            drawn.append((block, len(ops.calls)))
            yield np.full((2, 1), number)

    network = SimpleNamespace(ops=ops, outputs=SimpleNamespace(predictions=predictions))
    outputs = predict_blocks(network, [slice(0, 2), slice(2, 4), slice(4, 6)])
    assert_array_equal(outputs[:, 0], [0, 0, 1, 1, 2, 2])
    # Each block is forwarded only when it is needed.
    assert drawn == [("x3", 4), ("x3", 8), ("x3", 12)]
