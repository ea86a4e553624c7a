"""What users may set in Dask's configuration, under ``skdistmlp``."""

from pathlib import Path
from typing import Any

import dask
from dask.utils import parse_timedelta

(_FROM_FILE,) = dask.config.collect_yaml(
    [str(Path(__file__).parent / "skdistmlp.yaml")]
)
# So that they are seen there; what users have set, in files or the environment, goes
# before them.
dask.config.update_defaults(_FROM_FILE)


def setting(name: str) -> Any:
    """Return a setting.

    When this module is loaded inside ``dask.config.set(...)``, of one of them, all are
    taken from Dask's configuration at the end of the block: the defaults are kept.
    """
    return dask.config.get(f"skdistmlp.{name}", _FROM_FILE["skdistmlp"][name])


WORKER_CHECK_S = 2.0
"""Seconds between looks at the cluster while something there is waited for."""


def parameter_threshold() -> int:
    """Return ``skdistmlp.parameter-threshold``."""
    return int(setting("parameter-threshold"))


def exchange_timeout_s() -> float:
    """Return ``skdistmlp.exchange-timeout`` in seconds."""
    seconds: float = parse_timedelta(setting("exchange-timeout"))
    return seconds
