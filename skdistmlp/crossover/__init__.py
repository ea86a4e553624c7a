"""Measure from what size on training a network on a cluster pays."""
