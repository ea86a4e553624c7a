"""What a step takes on many workers, by the formulas of the package.

``python -m benchmarks scaling`` measures what one core of this machine does, and
computes from that and from `skdistmlp.planning.traffic` what networks gain on up to
1,024 workers. With ``--page docs/scaling.md`` it writes the tables of that page.
"""
