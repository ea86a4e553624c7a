"""A digest of arrays, by which rows are recognized."""

import hashlib

import numpy as np


def array_digest(*arrays: np.ndarray) -> bytes:
    """Return a digest of dtypes, shapes and values, whatever the order in memory.

    It is the same in every process and with every version of NumPy, which a digest of
    pickles would not be. Values count by their bits: 0.0 is not -0.0.

    Parameters
    ----------
    *arrays : ndarray
        None of them of objects.

    Returns
    -------
    bytes
        20 of them: among 10^9 different arrays, two share theirs with a probability
        below 10^-30.
    """
    # Against accidents only: whoever can change rows need not forge a digest. So it is
    # the fastest hash in hashlib that is long enough. On one machine, a GB took 0.65 s
    # with SHA-1, 0.7 s with SHA-256 and 1.9 s with BLAKE2b.
    digest = hashlib.sha1(usedforsecurity=False)
    for array in arrays:
        # Dtype and shape say how many bytes follow, so no two lists look the same.
        digest.update(b"%a;" % ((array.dtype.str, array.shape),))
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()
