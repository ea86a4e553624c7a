"""A lab of network namespaces: every plan of ours, and torch, on slower links.

``python -m benchmarks network`` needs Linux and root. It gives the driver and each
worker a network namespace, joins them by a bridge, shapes the links with ``tc``, and
starts a real scheduler and real workers in them.
"""
