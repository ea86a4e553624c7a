"""The benchmark: what is fast, how fast, and from what size on."""
