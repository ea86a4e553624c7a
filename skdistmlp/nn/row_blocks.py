"""Blocks of rows whose temporaries stay small."""

from skdistmlp.nn.types import FloatArray

# Temporaries above malloc's trim threshold (128 KiB in Dask workers) are returned
# to the operating system, and then cost page faults at every step.
BLOCK_BYTES = 96 * 1024


def row_blocks(a: FloatArray, n_temporaries: int = 1) -> list[slice]:
    """Cut `a` into blocks of rows whose temporaries stay small.

    Parameters
    ----------
    a : ndarray of shape (n_rows, n_columns)
        An array with one row is one block, however wide it is.
    n_temporaries : int
        Number of arrays of such a block that are alive at a time.
    """
    row_bytes = max(1, a.shape[1] * a.itemsize * n_temporaries)
    n_rows = max(1, BLOCK_BYTES // row_bytes)
    return [slice(start, start + n_rows) for start in range(0, a.shape[0], n_rows)]
