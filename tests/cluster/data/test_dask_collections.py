"""Dask collections: what they are, their columns, and how they are computed."""

import pickle
import re

import dask.array as da
import dask.bag
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse

from skdistmlp.cluster.data.dask_collections import (
    SeparateBlocks,
    compute,
    compute_in_process,
    header_of,
    in_whole_rows,
    is_collection,
    is_frame,
    persist_blocks,
    release,
)
from tests.cluster.data.inputs import as_sparse, exploding, of_unknown_length
from tests.cluster.support import bounded, wait_until

FRAME = pd.DataFrame({"a": np.arange(6), "b": np.arange(6) / 2})
ARRAY = np.arange(24.0).reshape(6, 4)


def as_frame(npartitions=3):
    return dd.from_pandas(FRAME, npartitions=npartitions)


@pytest.mark.parametrize(
    ("value", "lazy", "frame"),
    [
        (da.from_array(ARRAY), True, False),
        (as_frame(), True, True),
        (as_frame()["a"], True, True),
        (ARRAY, False, False),
        (FRAME, False, False),
        ([1, 2], False, False),
        (None, False, False),
    ],
    ids=["array", "frame", "series", "numpy", "pandas", "list", "none"],
)
def test_collections_and_frames_are_recognized(value, lazy, frame):
    assert is_collection(value) is lazy
    assert is_frame(value) is frame


def test_an_array_gets_all_columns_in_each_block():
    array = in_whole_rows("X", da.from_array(ARRAY, chunks=(2, 3)))
    assert array.chunks == ((2, 2, 2), (4,))
    assert_array_equal(array.compute(), ARRAY)


@pytest.mark.parametrize(
    "collection",
    [da.from_array(ARRAY, chunks=(2, 4)), da.ones(5, chunks=2), as_frame()],
    ids=["array", "vector", "frame"],
)
def test_a_collection_of_whole_rows_is_unchanged(collection):
    assert in_whole_rows("X", collection) is collection


@pytest.mark.parametrize(
    ("collection", "error", "message"),
    [
        (da.ones((2, 2, 2)), TypeError, "sample_weight is a Dask Array; expected an"),
        (
            dask.bag.from_sequence([1, 2]),
            TypeError,
            "sample_weight is a Dask Bag; expected an Array with one or two dimensions",
        ),
        (
            of_unknown_length(da.from_array(ARRAY.T, chunks=2)).T,
            ValueError,
            "the number of columns of sample_weight is unknown, but has to be known "
            "before training. Call sample_weight.compute_chunk_sizes() first.",
        ),
    ],
    ids=["three dimensions", "bag", "unknown columns"],
)
def test_a_collection_without_rows_and_columns_is_refused(collection, error, message):
    with pytest.raises(error, match=re.escape(message)):
        in_whole_rows("sample_weight", collection)


def test_the_header_of_a_frame_has_its_names_and_dtypes():
    header = header_of(as_frame())
    assert header.shape == (1, 2)
    assert list(header.columns) == ["a", "b"]
    assert list(header.dtypes) == list(FRAME.dtypes)
    assert not header.to_numpy().any()


@pytest.mark.parametrize(
    ("categories", "dtype"), [([1.5, 2.5], float), ([3, 4], int), (["u", "v"], int)]
)
def test_the_header_of_categories_has_the_dtype_of_their_values(categories, dtype):
    column = pd.Categorical(categories * 3, categories=categories)
    frame = dd.from_pandas(pd.DataFrame({"a": column}), npartitions=2)
    header = header_of(frame)
    assert header["a"].dtype == dtype
    assert header["a"].to_list() == [0]


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_the_header_of_an_array_is_a_row_of_zeros(dtype):
    header = header_of(da.from_array(ARRAY.astype(dtype), chunks=(2, 3)))
    assert header.dtype == dtype
    assert_array_equal(header, np.zeros((1, 4)))


def test_frames_and_arrays_are_computed_together_without_a_warning():
    """Warnings are errors in these tests, and Dask warns of mixed calls."""
    frame, array, plain = compute_in_process(
        as_frame(), da.from_array(ARRAY, chunks=3), "plain"
    )
    pd.testing.assert_frame_equal(frame, FRAME)
    assert_array_equal(array, ARRAY)
    assert plain == "plain"


def test_without_a_client_values_are_computed_in_this_process():
    computed = compute(None, da.from_array(ARRAY, chunks=3), None)
    assert_array_equal(computed[0], ARRAY)
    assert computed[1] is None


def test_a_client_computes_values_on_its_cluster(client):
    mixed = as_frame(), da.from_array(ARRAY, chunks=3), 7
    frame, array, plain = bounded(compute, client, *mixed)
    pd.testing.assert_frame_equal(frame, FRAME)
    assert_array_equal(array, ARRAY)
    assert plain == 7


def test_an_error_of_a_block_is_raised(client):
    with pytest.raises(ZeroDivisionError, match="computed"):
        bounded(compute, client, exploding((4, 2), (2, 2)))


def test_futures_of_blocks_are_in_the_order_of_the_rows(client):
    """Also beyond ten blocks, where names would sort otherwise."""
    X = np.arange(36.0).reshape(12, 3)
    collections = [da.from_array(X, chunks=(1, 3)), as_frame(), as_sparse(X)]
    array, frame, compressed = bounded(persist_blocks, client, collections)
    assert_array_equal(np.concatenate(client.gather(array)), X)
    pd.testing.assert_frame_equal(pd.concat(client.gather(frame)), FRAME)
    stacked = sparse.vstack(client.gather(compressed))
    assert_array_equal(stacked.toarray(), X)


def test_released_futures_are_gone_even_if_somebody_refers_to_them(client):
    future = client.submit(int, 7, pure=False)
    bounded(future.result)
    futures = [future]
    release(futures)
    assert futures == []
    wait_until(lambda: not client.who_has(), "the result is forgotten")


def test_blocks_are_computed_some_at_a_time(client):
    blocks = SeparateBlocks(da.from_array(ARRAY, (2, 4)) + 1)
    worker = list(client.nthreads())[1]
    futures = blocks.compute(client, [2, 0], worker)
    assert_array_equal(bounded(client.gather, futures), [ARRAY[4:] + 1, ARRAY[:2] + 1])
    assert set(client.who_has(futures).values()) == {(worker,)}
    release(futures)


def test_a_block_is_sent_without_the_others():
    """Of an array in this process, only its rows; of a long graph, its own tasks."""
    blocks = SeparateBlocks(da.from_array(np.zeros((8000, 100)), (1000, 100)) + 1)
    culled = blocks._graph.cull({blocks._keys[3]})
    assert len(pickle.dumps(dict(culled))) < 1.1 * 8 * 1000 * 100
