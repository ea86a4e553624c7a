"""Dask collections as features, targets and sample weights."""
