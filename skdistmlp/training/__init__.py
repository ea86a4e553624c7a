"""Epochs, mini-batches, stopping and history: no cluster, no wire."""
