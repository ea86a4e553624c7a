"""Dask collections of every kind, and estimators to train on them."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
from scipy import sparse

from skdistmlp import (
    DistributedMLPClassifier,
    DistributedMLPRegressor,
)

COMMON = {
    "hidden_layer_sizes": (20, 9),
    "batch_size": 100,
    "random_state": 0,
    "max_iter": 3,
    "n_workers": 2,
    "parameter_threshold": 0,
    "engine": "peers",
}
N_ROWS, N_COLUMNS = 300, 64
NAMES = [f"pixel {n}" for n in range(N_COLUMNS)]


def classifier(client, **parameters):
    return DistributedMLPClassifier(**COMMON | {"client": client} | parameters)


def regressor(client, **parameters):
    return DistributedMLPRegressor(**COMMON | {"client": client} | parameters)


def as_array(X):
    """Return an array in blocks of rows and of columns."""
    return da.from_array(X, chunks=(70, 40) if X.ndim > 1 else 110)


def as_sparse(X):
    return as_array(X).rechunk({1: -1}).map_blocks(sparse.csr_array)


def as_frame(X):
    return dd.from_pandas(pd.DataFrame(X, columns=NAMES), npartitions=4)


def of_unknown_length(array):
    """Return the same rows in an array of unknown length."""
    kept = da.from_array(np.ones(len(array), bool), chunks=array.chunks[0])
    return array[kept]


INPUTS = {
    "array": as_array,
    "array of unknown length": lambda X: of_unknown_length(as_array(X)),
    "sparse blocks": as_sparse,
    "data frame": as_frame,
}


def dense_or_sparse(X, convert):
    return sparse.csr_array(X) if convert is as_sparse else X


def multilabel(y):
    return np.column_stack([y % 2, y > 4, y == 3]).astype(int)


def exploding(shape, chunks):
    """Return an array whose computation fails."""

    def explode(block):
        raise ZeroDivisionError("computed")

    zeros = da.zeros(shape, chunks=chunks)
    return zeros.map_blocks(explode, dtype=float, meta=np.empty((0,) * len(shape)))


def weights_of(y):
    return 1.0 + y / 4
