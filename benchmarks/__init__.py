"""The benchmark: how fast each engine is, and from what size on.

Run it with ``python -m benchmarks``. All candidates of a comparison take
turns in one run on the same cores, and medians are compared.
"""
