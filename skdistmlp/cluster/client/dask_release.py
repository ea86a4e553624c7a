"""Which releases of Dask understand each other's messages."""

import distributed

from skdistmlp.exceptions import ClusterError
from skdistmlp.requirements import release_numbers

NEW_MESSAGES = "2025.4.0"
"""Since this release a client asks a scheduler in words that older ones refuse
(`identity` with `n_workers`), and a scheduler tells clients and workers to change the
interval of their heartbeats, at which older ones end the connection."""


def check_dask_release(where: str, found: str) -> None:
    """Raise unless another process runs a Dask whose messages this one understands.

    Of other differences Dask itself warns when a client connects
    (`VersionMismatchWarning`), and most are harmless: tried were 2025.9 with 2025.12,
    and 2025.12 to 2026.7 with 2026.8, in both directions.

    Parameters
    ----------
    where : str
        Which process it is, as a subject.
    found : str
        The version of distributed that it runs.

    Raises
    ------
    ClusterError
        It names both versions.
    """
    own = distributed.__version__  # type: ignore[attr-defined]
    if _has_new_messages(found) != _has_new_messages(own):
        raise ClusterError(
            f"{where} runs Dask {found}, this process Dask {own}, and Dask from "
            f"{NEW_MESSAGES} on does not work together with older versions. Install "
            f"the same version here, on the scheduler and on all workers."
        )


def _has_new_messages(version: str) -> bool:
    return release_numbers(version) >= release_numbers(NEW_MESSAGES)
