"""What it takes the workers of a plan to get their rows from those that have them."""

from collections.abc import Mapping

from skdistmlp.planning.machines import Link
from skdistmlp.planning.plan import Plan
from skdistmlp.planning.rates import DASK_BYTE_S


def bytes_to_fetch(
    plan: Plan, feature_bytes: int, on_workers: Mapping[str, int]
) -> list[float]:
    """Return the bytes of rows that each worker will have and does not have yet.

    As many rows as possible stay where they are. What the workers of a replica have
    beyond its part of the rows goes to others.

    Parameters
    ----------
    plan : Plan
        Of "peers".
    feature_bytes : int
        Bytes of the features of all rows.
    on_workers : mapping of str to int
        Bytes of them that each worker has, by address, also of workers that take no
        part. Empty if they are computed during the fit: each worker computes what it
        needs.

    Returns
    -------
    list of float
        Bytes, by rank.
    """
    if not on_workers:
        return [0.0] * len(plan.workers)
    rows, (n_shards, n_replicas) = plan.rows, (plan.n_shards, plan.n_replicas)
    if rows.form == "all":
        # All workers have what a replica has elsewhere.
        n_shards, n_replicas = n_shards * n_replicas, 1
    missing: list[float] = []
    for replica in range(n_replicas):
        first = replica * n_shards
        part = float(feature_bytes)
        if rows.form != "all":
            part *= float(rows.share(replica, n_replicas))
        has = [
            on_workers.get(worker, 0)
            for worker in plan.workers[first : first + n_shards]
        ]
        if rows.form == "once":
            missing += [max(0.0, part / n_shards - its) for its in has]
        else:
            kept = min(1.0, part / max(1.0, sum(has)))
            missing += [max(0.0, part - kept * its) for its in has]
    return missing


def fetch_s(
    plan: Plan,
    feature_bytes: int,
    on_workers: Mapping[str, int],
    links: Mapping[str, Link],
) -> float:
    """Return the seconds in which all workers of a plan get their rows from others.

    All fetch at once, each from all that have rows, in proportion to how many; so they
    wait for the worker that gets, or sends, for the longest time.

    Parameters
    ----------
    plan, feature_bytes, on_workers
        See `bytes_to_fetch`.
    links : mapping of str to Link
        Of each worker, by address.
    """
    missing = bytes_to_fetch(plan, feature_bytes, on_workers)
    received = dict(zip(plan.workers, missing, strict=True))
    sent: Mapping[str, float] = received
    if on_workers:
        each = sum(missing) / max(1, sum(on_workers.values()))
        sent = {worker: each * its for worker, its in on_workers.items()}
    return max(
        max(received.get(worker, 0.0), sent.get(worker, 0.0))
        * (DASK_BYTE_S + 8 / links[worker].bits_per_s)
        for worker in {**received, **sent}
        if worker in links
    )
