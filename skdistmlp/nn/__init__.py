"""The arithmetic of a multilayer perceptron on NumPy arrays.

Nothing here knows of shards or imports from the rooms above. There is no state but
that of `skdistmlp.nn.compiled`, which loads numba at most once per process.
"""
