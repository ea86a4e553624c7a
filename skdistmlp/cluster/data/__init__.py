"""Dask collections as features, targets and weights."""
