"""Which releases of Dask the processes of a cluster may run."""

import distributed

from skdistmlp.exceptions import ClusterError
from skdistmlp.requirements import release_numbers

OLDEST = "2025.5.0"
"""As in the metadata of this package.

Schedulers before 2025.4 refuse a question that later clients ask, and clients and
workers before 2025.4 close the connection at a message of later schedulers. Before
2025.5, a worker that is restarted or lost at the wrong moment may break an assertion
of the scheduler, after which calls wait forever."""


def check_dask_release(where: str, found: str) -> None:
    """Raise if another process runs a Dask that is too old.

    Dask itself warns about other differences when a client connects
    (`VersionMismatchWarning`); docs/install.md says which were tried.

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
    if release_numbers(found) < release_numbers(OLDEST):
        own = distributed.__version__  # type: ignore[attr-defined]
        raise ClusterError(
            f"{where} runs Dask {found}, this process Dask {own}, and skdistmlp needs "
            f"{OLDEST} or newer everywhere. Install the same version of dask and "
            f"distributed here, on the scheduler and on all workers."
        )
