"""Processes whose Dask is too old are named."""

from importlib import metadata

import distributed
import pytest
from distributed import Client

from skdistmlp.cluster.client.dask_release import OLDEST, check_dask_release
from skdistmlp.exceptions import ClusterError
from tests.cluster.client.support import classifier, small
from tests.cluster.support import bounded


def test_the_oldest_release_is_the_one_of_the_metadata():
    (floor,) = [
        line.removeprefix("distributed>=")
        for line in metadata.requires("skdistmlp")
        if line.startswith("distributed>=")
    ]
    assert floor == OLDEST


@pytest.mark.parametrize("found", [OLDEST, "2025.12.0", "2026.6.0+12.gabc"])
def test_any_newer_release_is_accepted(found):
    check_dask_release("the scheduler", found)


@pytest.mark.parametrize("found", ["2025.4.1", "2024.12.0"])
def test_an_older_release_is_named(found):
    own = distributed.__version__
    said = rf"the scheduler runs Dask {found}, this process Dask {own}, and skdistmlp "
    with pytest.raises(ClusterError, match=said):
        check_dask_release("the scheduler", found)


def test_a_scheduler_is_asked_before_a_client_is_made(processes, digits):
    """A client would end in an error of Dask's own, or lose its connection."""

    def pretend(dask_scheduler):
        dask_scheduler.handlers["versions"] = lambda **_: {
            "packages": {"distributed": "2025.3.1"}
        }

    def tell_the_truth(dask_scheduler):
        dask_scheduler.handlers["versions"] = dask_scheduler.versions

    with Client(processes.address, set_as_default=False) as client:
        client.run_on_scheduler(pretend)
        clf = classifier(client=processes.address)
        said = rf"the scheduler at client='{processes.address}' runs Dask 2025.3.1, "
        with pytest.raises(ClusterError, match=said):
            bounded(clf.fit, *small(digits))
        client.run_on_scheduler(tell_the_truth)
