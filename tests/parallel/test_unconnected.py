"""A process whose others are not there computes as much as with them."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdistmlp.parallel import overlap
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.overlap import GatherInHalves
from skdistmlp.parallel.split import consecutive_ranges
from skdistmlp.parallel.unconnected import Unconnected


def test_results_have_the_shapes_of_all_and_the_numbers_of_this_process():
    ranges = consecutive_ranges([3, 2, 4])
    part = np.arange(6.0).reshape(2, 3)
    communicator = Unconnected(3)
    for out in (None, np.full((2, 9), np.nan)):
        gathered = communicator.all_gather(part, ranges, 0, out)
        assert gathered.shape == (2, 9)
        assert np.isfinite(gathered).all()
        assert_array_equal(gathered[:, :3], part)
        assert_array_equal(gathered[:, 3:5], part[:, :2])
    piece = np.arange(18.0).reshape(2, 9)
    for out in (None, np.full((2, 3), np.nan)):
        own = communicator.reduce_scatter(piece, ranges, 0, out)
        assert_array_equal(own, piece[:, :3])
    assert_array_equal(communicator.all_reduce(piece, 0, None), piece)
    assert_array_equal(communicator.broadcast(piece, 0), piece)
    communicator.begin_step()


def test_own_columns_are_refreshed_each_time():
    ranges = consecutive_ranges([1, 1])
    out = np.empty((1, 2))
    communicator = Unconnected(2)
    for value in (1.0, 2.0):
        communicator.all_gather(np.array([[value]]), ranges, 0, out)
        assert out[0, 0] == value


def test_more_rows_in_the_same_buffer_are_filled_too():
    ranges = consecutive_ranges([1, 1])
    buffer = np.full((3, 2), np.nan)
    communicator = Unconnected(2)
    for n_rows in (1, 3):
        out = buffer[:n_rows]
        communicator.all_gather(np.ones((n_rows, 1)), ranges, 0, out)
        assert_array_equal(out, 1.0)


def test_columns_that_are_gathered_in_halves_are_filled_too(monkeypatch):
    """What nobody has written to might be denormal, which is slow."""
    monkeypatch.setattr(overlap, "HALVED_BYTES", 1)
    ranges = consecutive_ranges([4, 4, 4])
    out = np.full((2, 12), np.nan)
    gather = GatherInHalves(Unconnected(3), ranges, 1, out)
    first, second = gather.columns
    for columns in (first, second):
        gather.begin(np.full((2, columns.stop - columns.start), float(columns.start)))
    assert_array_equal(out, np.tile([0.0, 0, 2, 2], (2, 3)))


@pytest.mark.parametrize("axis", ["neurons", "replicas"])
def test_axes_have_the_lengths_of_the_grid(axis):
    grid = Grid(3, 2)
    along = Unconnected(grid.n_ranks, grid).along(axis)
    assert along.n_ranks == len(grid.along(axis, 0))
    assert along.rank == 0
    whole = Unconnected(3, Grid(3))
    assert whole.along("neurons") is whole
    assert whole.along("replicas").n_ranks == SingleProcess.n_ranks
