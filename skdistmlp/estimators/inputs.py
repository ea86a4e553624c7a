"""Dask collections among what an estimator is given."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client


def is_collection(value: Any) -> bool:
    """Say whether a value is a Dask collection; Dask is imported if it may be one."""
    if not hasattr(type(value), "__dask_graph__"):
        return False
    from skdistmlp.cluster import collections

    return collections.is_collection(value)


@contextmanager
def brought(
    client: "Client | str | None", estimator_name: str, X: Any, y: Any, weight: Any
) -> Iterator[tuple[Any, Any, Any]]:
    """Give features, targets and weights such that none of them is a collection.

    See `skdistmlp.cluster.collections.brought`.
    """
    if not any(is_collection(value) for value in (X, y, weight)):
        yield X, y, weight
        return
    from skdistmlp.cluster import collections

    with collections.brought(client, estimator_name, X, y, weight) as arrays:
        yield arrays


def computed(client: "Client | str | None", *values: Any) -> tuple[Any, ...]:
    """Return values, the Dask collections among them computed in one go."""
    if not any(is_collection(value) for value in values):
        return values
    from skdistmlp.cluster import collections

    return collections.compute(client, *values)
