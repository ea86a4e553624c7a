"""Errors that this package raises, beside scikit-learn's and Dask's own."""


class SkdistmlpError(Exception):
    """Base of the errors below."""


class ExchangeError(SkdistmlpError):
    """A shard waited in vain for another."""


class StopRequested(SkdistmlpError):  # noqa: N818 (it is a wish, not an error)
    """Somebody asked the shards to stop: all do so before the same step."""


class ClusterError(SkdistmlpError):
    """The cluster cannot be reached, or has too few workers or too little memory."""


class WorkerLostError(SkdistmlpError):
    """A worker went away with its part of the network."""
