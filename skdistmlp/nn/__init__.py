"""The arithmetic of a multilayer perceptron: pure functions on NumPy arrays.

Nothing here keeps state, knows of shards or imports from the floors above.
"""
