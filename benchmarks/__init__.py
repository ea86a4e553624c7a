"""Benchmarks: how fast each engine is, and from what network size on it pays.

Contributors run them from a checkout with ``python -m benchmarks``. All candidates of
a comparison take turns in one run on the same cores, and medians are compared.
"""
