"""Predictions on a cluster, by rows or lazily."""
