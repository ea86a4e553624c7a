"""Which engine runs, on which workers, and what it is expected to cost."""
