"""Which of the errors of a round is its cause."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any, NoReturn

from distributed import Future

from skdistmlp.cluster.run.placement import Placement
from skdistmlp.exceptions import ExchangeError
from skdistmlp.timeouts import LOSS_POLL_S, WORKER_CHECK_S


def raise_cause(tasks: Placement, futures: Sequence[Future[Any]]) -> NoReturn:
    """Raise the cause of a failed round, not its consequence.

    When one shard fails, the others fail too, with an `ExchangeError`, since it has
    closed its connections. Dask may report those first, and may notice a lost worker
    later than its peers do. So wait a little for an error of another kind, or a lost
    worker, before the consequence is taken for the cause. Of broken exchanges, that of
    a shard that could not connect comes first: it closed its connections to others.

    Meanwhile the workers are pinged: a broken exchange has those that do not answer.
    """
    deadline = time.monotonic() + WORKER_CHECK_S
    with tasks.ping_workers() as pings:
        while True:
            errors = [error for future in futures if (error := tasks.error_of(future))]
            for error in errors:
                if not isinstance(error, ExchangeError):
                    raise error
            if time.monotonic() > deadline:
                break
            tasks.watch.check_presence()
            time.sleep(LOSS_POLL_S)
        if not errors:
            raise CancelledError
        # Of those that say who could not connect to whom, rather than of those to whom
        # connections were closed for that.
        cause = min(errors, key=lambda error: not getattr(error, "apart", ()))
        assert isinstance(cause, ExchangeError)
        cause.silent = pings.silent()
        raise cause
