"""Questions to the scheduler, each with a deadline.

Dask itself waits for an answer forever, as of a scheduler that hangs.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from distributed import Client

from skdistmlp.cluster._dask import call_scheduler
from skdistmlp.cluster.client.lookup import scheduler_address
from skdistmlp.cluster.client.rpc import check_open, submit_rpc, wait_while
from skdistmlp.exceptions import ClusterError
from skdistmlp.settings import exchange_timeout_s

UNRESPONSIVE_TIMEOUTS = 4
"""Timeouts (``skdistmlp.exchange-timeout``) that the scheduler may take to answer, or a
worker that has other tasks than ours: it answers at once unless one holds the GIL. A
worker without such tasks has a single timeout."""


def ask_scheduler(client: Client, operation: str, **arguments: Any) -> Any:
    """Return what the scheduler answers to one of its operations.

    Raises
    ------
    ClusterError
        If it does not answer within `UNRESPONSIVE_TIMEOUTS` timeouts.
    CancelledError
        If the client is closed.
    """
    check_open(client)
    return await_scheduler(
        client, submit_rpc(client, call_scheduler, client, operation, **arguments)
    )


def await_scheduler(client: Client, answer: Future[Any]) -> Any:
    """Wait for an answer that only the scheduler is needed for; see `ask_scheduler`."""
    timeout_s = UNRESPONSIVE_TIMEOUTS * exchange_timeout_s()
    deadline = time.monotonic() + timeout_s

    def check() -> None:
        check_open(client)
        if time.monotonic() > deadline:
            raise ClusterError(
                f"the scheduler at {scheduler_address(client)} has not answered for "
                f"{timeout_s:g} s ({UNRESPONSIVE_TIMEOUTS} times "
                f"skdistmlp.exchange-timeout). Check what it is doing, and call again."
            )

    wait_while(check, [answer])
    return answer.result()
