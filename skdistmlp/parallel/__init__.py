"""The split of a network by neurons, and what its shards do for one step.

It imports ``nn``, and nothing of Dask, epochs or estimators.
"""
