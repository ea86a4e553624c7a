"""Releases of Dask that do not understand each other are named."""

import distributed
import pytest
from distributed import Client

from skdistmlp.cluster.client.dask_release import check_dask_release
from skdistmlp.exceptions import ClusterError
from tests.cluster.client.support import classifier, small
from tests.cluster.support import bounded


@pytest.mark.parametrize(
    ("own", "found", "go_together"),
    [
        ("2026.8.0", "2026.8.0", True),
        ("2026.8.0", "2025.4.0", True),
        ("2025.12.0", "2026.6.0+12.gabc", True),
        ("2025.4.0", "2025.3.1", False),
        ("2025.1.0", "2026.8.0", False),
        ("2025.1.0", "2025.2.0", True),
    ],
)
def test_only_a_change_of_the_messages_is_refused(monkeypatch, own, found, go_together):
    monkeypatch.setattr(distributed, "__version__", own)
    if go_together:
        check_dask_release("the scheduler", found)
    else:
        said = rf"the scheduler runs Dask {found}, this process Dask {own}, and Dask "
        with pytest.raises(ClusterError, match=said):
            check_dask_release("the scheduler", found)


def test_a_scheduler_is_asked_before_a_client_is_made(processes, digits):
    """A client would end in an error of Dask's own, or lose its connection."""
    other = "2025.3.1" if distributed.__version__ >= "2025.4" else "2026.8.0"

    def pretend(dask_scheduler):
        dask_scheduler.handlers["versions"] = lambda **_: {
            "packages": {"distributed": other}
        }

    def tell_the_truth(dask_scheduler):
        dask_scheduler.handlers["versions"] = dask_scheduler.versions

    with Client(processes.address, set_as_default=False) as client:
        client.run_on_scheduler(pretend)
        clf = classifier(client=processes.address)
        said = rf"the scheduler at client='{processes.address}' runs Dask {other}, "
        with pytest.raises(ClusterError, match=said):
            bounded(clf.fit, *small(digits))
        client.run_on_scheduler(tell_the_truth)
