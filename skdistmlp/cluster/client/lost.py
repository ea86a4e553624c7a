"""Wait for workers that a cluster had a moment ago, before a fit is planned.

A fit that loses workers waits until they are replaced. The next one would end at once
with an error, and so would most fits of a search that loses a worker between two.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from distributed import Client

from skdistmlp.cluster.client.lookup import scheduler_address
from skdistmlp.cluster.client.rpc import check_open
from skdistmlp.exceptions import counted
from skdistmlp.settings import max_recoveries, recovery_wait_s
from skdistmlp.timeouts import RECOVERY_POLL_S, SEEN_VALID_S
from skdistmlp.training.loop import Log

LOG = logging.getLogger("skdistmlp")

_SEEN: dict[str, dict[int, float]] = {}
"""When a cluster was last seen with a number of workers, by the cluster's address: a
client may be made for a single call."""


def note_number(client: Client, n_workers: int) -> None:
    """Note how many workers a cluster has now."""
    _SEEN.setdefault(scheduler_address(client), {})[n_workers] = time.monotonic()


def await_lost_workers(
    client: Client, n_wanted: int, number_present: Callable[[], int], log: Log
) -> None:
    """Wait until a cluster has enough workers again, if it had them a moment ago.

    For ``skdistmlp.recovery-wait`` at most, once: then they count as gone for good.

    Parameters
    ----------
    client : Client
        A connected client.
    n_wanted : int
        Enough workers; there are fewer.
    number_present : callable
        Returns how many there are now.
    log : callable
        Takes a line that says so; the package's logger gets it too.
    """
    wait_s = recovery_wait_s() if max_recoveries() > 0 else 0.0
    if wait_s == 0 or not _had_lately(client, n_wanted):
        return
    line = (
        f"waiting for up to {wait_s:g} s (skdistmlp.recovery-wait) for workers in the "
        f"place of lost ones: {counted(n_wanted, 'worker')} must be there, and the "
        f"cluster at {scheduler_address(client)} has {number_present()}"
    )
    LOG.info("%s", line)
    log(line)
    deadline = time.monotonic() + wait_s
    while number_present() < n_wanted:
        check_open(client)
        if time.monotonic() > deadline:
            _forget(client, n_wanted)
            return
        time.sleep(RECOVERY_POLL_S)


def _had_lately(client: Client, n_workers: int) -> bool:
    """Say whether a cluster had at least this number of workers a moment ago."""
    oldest = time.monotonic() - SEEN_VALID_S
    # A copy: other threads add to it.
    seen = dict(_SEEN.get(scheduler_address(client), {}))
    return any(n >= n_workers and at > oldest for n, at in seen.items())


def _forget(client: Client, n_workers: int) -> None:
    """Forget that a cluster had this number of workers or more."""
    seen = _SEEN.get(scheduler_address(client), {})
    for n_seen in [n for n in dict(seen) if n >= n_workers]:
        seen.pop(n_seen, None)
