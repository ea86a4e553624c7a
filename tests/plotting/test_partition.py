"""Neurons, links and labels of `PartitionDisplay`."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError

from skdistmlp import DistributedMLPClassifier, Plan
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.plotting import PartitionDisplay
from skdistmlp.plotting.axes import COLOURS
from skdistmlp.plotting.partition import SHIFT_X, SHIFT_Y
from tests.marks import only_quick
from tests.plotting.pictures import assert_hides_nothing, assert_readable

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_neurons_and_links_have_the_colour_of_their_worker():
    split = NetworkSplit.even((3, 4, 2), 2)
    display = PartitionDisplay(split=split, workers=["a", "b"]).plot()
    assert [len(neurons.get_offsets()) for neurons in display.neurons_] == [2, 2]
    for rank, neurons in enumerate(display.neurons_):
        assert to_hex(neurons.get_facecolor()[0]) == COLOURS[rank].lower()
    owner = {
        tuple(place): to_hex(neurons.get_facecolor()[0])
        for neurons in display.neurons_
        for place in neurons.get_offsets().tolist()
    }
    segments = display.links_.get_segments()
    assert len(segments) == 3 * 4 + 4 * 2
    for segment, colour in zip(segments, display.links_.get_colors(), strict=True):
        start, stop = (tuple(point) for point in segment.tolist())
        # A link has the colour of its hidden end.
        hidden = stop if stop in owner else start
        assert to_hex(colour) == owner[hidden]
    assert_readable(display.figure_)


@pytest.mark.parametrize("n_shards", [1, 3, 8])
@pytest.mark.parametrize("layer_units", [(784, 4096, 2, 10), (64, 100, 1), (5, 3)])
def test_large_layers_are_abbreviated(layer_units, n_shards):
    split = NetworkSplit.even(layer_units, n_shards)
    display = PartitionDisplay(
        split=split, workers=[f"w{i}" for i in range(split.n_shards)]
    )
    display.plot(max_neurons=12)
    n_drawn = sum(len(neurons.get_offsets()) for neurons in display.neurons_)
    assert n_drawn <= 3 * 8 * max(1, len(layer_units) - 2)
    texts = [text.get_text() for text in display.ax_.texts]
    assert sum(f"{units:,}" in " ".join(texts) for units in layer_units) == len(
        layer_units
    )
    assert ("⋮" in texts) == (max(layer_units) > 12)
    labels = display.ax_.get_legend_handles_labels()[1]
    assert len(labels) == split.n_shards + 1
    assert_readable(display.figure_)


def test_network_of_a_fitted_estimator(data):
    clf = DistributedMLPClassifier((9,), max_iter=1).fit(*data)
    display = PartitionDisplay.from_estimator(clf)
    assert display.split.layer_units == (64, 9, 10)
    assert display.workers == ["this process"]
    with pytest.raises(NotFittedError):
        PartitionDisplay.from_estimator(DistributedMLPClassifier())
    with pytest.raises(ValueError, match="max_neurons=2 must be at least 3"):
        display.plot(max_neurons=2)


def test_replicas_stand_behind_the_first(data):
    clf = DistributedMLPClassifier((9, 5), max_iter=1).fit(*data)
    names = tuple(f"tcp://10.0.0.{number}:40001" for number in range(6))
    split = NetworkSplit.even(clf.plan_.split.layer_units, 2)
    clf.plan_ = Plan("peers", split, names, "a test", n_replicas=3)
    display = PartitionDisplay.from_estimator(clf)
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == [
        f"shard 0: {names[0]}, …, {names[4]}",
        f"shard 1: {names[1]}, …, {names[5]}",
        "inputs: all workers; outputs: sums",
        "behind: replicas 1-2, the same for other rows",
    ]
    assert len(display.neurons_) == 2
    assert len(display.replicas_) == 2
    for behind, shards in enumerate(display.replicas_, start=1):
        for front, back in zip(display.neurons_, shards, strict=True):
            # The farther behind, the farther to the right and above.
            shift = (back.get_offsets() - front.get_offsets()).data
            assert_allclose(
                shift, np.tile([SHIFT_X, SHIFT_Y], (len(shift), 1)) * behind
            )
            assert back.get_zorder() < front.get_zorder()
            assert to_hex(back.get_facecolor()[0]) != to_hex(front.get_facecolor()[0])
    assert_readable(display.figure_)


@pytest.mark.parametrize("size", only_quick(0, cases=["4x3", "6.4x4.8", "11x8"]))
@pytest.mark.parametrize(
    ("n_replicas", "n_shards"), [(1, 2), (2, 2), (4, 16), (8, 1), (64, 1)]
)
def test_grids_are_readable(n_replicas, n_shards, size):
    split = NetworkSplit.even((64, 100, 4096, 10), n_shards)
    workers = [f"tcp://10.0.0.{i}:40001" for i in range(n_replicas * n_shards)]
    inches = [float(length) for length in size.split("x")]
    _, ax = plt.subplots(figsize=inches, layout="constrained")
    display = PartitionDisplay(split=split, workers=workers, n_replicas=n_replicas)
    display.plot(ax)
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    behind = [label for label in legend if label.startswith("behind: ")]
    assert (
        behind
        == {
            1: [],
            2: ["behind: replica 1, the same for other rows"],
            4: ["behind: replicas 1-3, the same for other rows"],
            8: ["behind: replicas 1-7 (3 drawn), the same for other rows"],
            64: ["behind: replicas 1-63 (3 drawn), the same for other rows"],
        }[n_replicas]
    )
    assert len(display.replicas_) == min(3, n_replicas - 1)
    assert_readable(display.figure_)
    drawn = [*display.neurons_, *(n for back in display.replicas_ for n in back)]
    points = [ax.transData.transform(n.get_offsets()) for n in drawn]
    assert_hides_nothing(ax.get_legend(), *points)


def test_each_shard_of_each_replica_needs_a_worker():
    split = NetworkSplit.even((3, 4, 2), 2)
    display = PartitionDisplay(split=split, workers=["a", "b"], n_replicas=3)
    with pytest.raises(
        ValueError, match="names of 6 workers, one per shard and replica, got 2"
    ):
        display.plot()


@pytest.mark.parametrize("workers", [["a"], ["a", "b", "c"]], ids=str)
def test_each_shard_needs_a_worker(workers):
    display = PartitionDisplay(split=NetworkSplit.even((3, 4, 2), 2), workers=workers)
    with pytest.raises(
        ValueError, match=r"names of 2 workers, one per shard, got [13]"
    ):
        display.plot()


@pytest.mark.parametrize("layout", only_quick(0, cases=["constrained", None]))
@pytest.mark.parametrize("n_hidden", [2, 6, 20])
@pytest.mark.parametrize("size", [(3, 2), (4, 3), (6.4, 4.8)], ids=str)
def test_labels_of_many_layers_do_not_overlap(size, n_hidden, layout):
    split = NetworkSplit.even((64, *n_hidden * [4096], 10), 2)
    _, ax = plt.subplots(figsize=size, layout=layout)
    display = PartitionDisplay(split=split, workers=["a", "b"]).plot(ax)
    sizes = [text.get_text() for text in ax.texts if text.get_text() != "⋮"]
    assert [size.split()[0] for size in sizes] == ["64", *n_hidden * ["4,096"], "10"]
    # Names of layers are dropped first.
    named = "hidden" in " ".join(sizes)
    assert named == (n_hidden == 2 or (n_hidden == 6 and size == (6.4, 4.8)))
    assert_readable(display.figure_)


@pytest.mark.parametrize("layout", ["constrained", None])
def test_long_addresses_are_abbreviated_to_fit(layout):
    split = NetworkSplit.even((64, 100, 10), 2)
    address = "tls://worker-{}.training.dask.svc.cluster.example.com:3921{}"
    workers = [address.format(i, i) for i in range(2)]
    for size in ((3, 2), (11, 8)):
        _, ax = plt.subplots(figsize=size, layout=layout)
        display = PartitionDisplay(split=split, workers=workers).plot(ax)
        *shards, _ = [text.get_text() for text in ax.get_legend().get_texts()]
        for i, label in enumerate(shards):
            if size == (3, 2):
                begin, end = label.removeprefix(f"shard {i}: ").split("…")
                assert workers[i].startswith(begin)
                assert workers[i].endswith(end)
                assert min(len(begin), len(end)) > 5
            else:
                assert label == f"shard {i}: {workers[i]}"
        assert_readable(display.figure_)


@pytest.mark.parametrize("size", [(4, 3), (6.4, 4.8), (11, 8)], ids=str)
@pytest.mark.parametrize(("n_shards", "listed"), [(2, 2), (7, 7), (16, 16), (40, 16)])
def test_many_shards_have_distinct_colours(n_shards, listed, size):
    split = NetworkSplit.even((64, 100, 4096, 10), n_shards)
    workers = [f"tcp://192.168.17.{100 + i}:39217" for i in range(n_shards)]
    _, ax = plt.subplots(figsize=size, layout="constrained")
    display = PartitionDisplay(split=split, workers=workers).plot(ax)
    looks = {
        (to_hex(n.get_facecolor()[0]), n.get_paths()[0].vertices.tobytes())
        for n in display.neurons_
    }
    assert len(looks) == n_shards
    # As many as fit, and always the last one.
    *shards, others = [text.get_text() for text in ax.get_legend().get_texts()]
    assert others == "inputs: all workers; outputs: sums"
    assert shards[-1] == f"shard {n_shards - 1}: {workers[-1]}"
    n_listed = sum(text.startswith("shard") for text in shards)
    assert 2 <= n_listed <= listed
    if n_listed < n_shards:
        assert shards[-2] == f"… {n_shards - n_listed} more shards"
    if size[0] == 11:
        assert n_listed == listed
    assert_readable(display.figure_)
    points = [ax.transData.transform(n.get_offsets()) for n in display.neurons_]
    assert_hides_nothing(ax.get_legend(), *points)


def test_names_of_workers_are_not_formulas():
    split = NetworkSplit.even((3, 4, 2), 2)
    plain, odd = (
        PartitionDisplay(split=split, workers=names).plot()
        for names in (["_weird_name_", "two"], ["$weird_name$", "t$wo"])
    )
    # A formula shows no dollars, and makes what follows a _ a subscript.
    widths = [
        [
            text.get_window_extent().width
            for text in display.ax_.get_legend().get_texts()
        ]
        for display in (plain, odd)
    ]
    assert widths[1][0] > widths[0][0]
    assert all("\\$" in d.get_label() for d in odd.neurons_)
    assert_readable(odd.figure_)
