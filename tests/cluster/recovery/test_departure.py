"""Why a fit leaves workers that are still there."""

import pytest

from skdistmlp import WorkerLostError
from skdistmlp.cluster.recovery.departure import departure_among, departure_named

STATUSES = {"a": "running", "b": "paused", "c": "closing_gracefully", "d": "paused"}


@pytest.mark.parametrize(
    ("workers", "kind", "left"),
    [
        ("a", None, ()),
        ("ab", "paused", ("b",)),
        ("dba", "paused", ("d", "b")),
        # Whoever retires a worker waits for it.
        ("bc", "retired", ("c",)),
        # It has left.
        ("e", None, ()),
    ],
)
def test_the_status_of_a_worker_says_why_it_is_left(workers, kind, left):
    found = departure_among(STATUSES, tuple(workers))
    if kind is None:
        assert found is None
        return
    assert (found.kind, found.workers, found.plan) == (kind, left, None)
    if len(left) == 1:
        said = (
            "is being retired" if kind == "retired" else "has been paused for too long"
        )
        assert found.why.startswith(f"worker {left[0]} {said}")
    else:
        assert found.why.startswith("workers d, b have been paused for too long: they")


def test_all_workers_that_are_left_are_named():
    retired = dict.fromkeys("xyz", "closing_gracefully")
    found = departure_among(retired, tuple("zyx"))
    assert found.why == "workers z, y, x are being retired"


@pytest.mark.parametrize(
    ("named", "kind"),
    [(("c",), "retired"), (("b",), "paused"), (("a",), None), (("c", "e"), None)],
)
def test_an_error_of_workers_that_answer_is_no_loss(named, kind):
    found = departure_named(WorkerLostError("why", named), STATUSES)
    assert (None if found is None else found.kind) == kind


@pytest.mark.parametrize(
    ("said", "now", "kind"),
    [
        # It resumed as soon as the run had released what it held there.
        ("paused", "running", "paused"),
        ("paused", None, None),
        # Dask has refused to retire it, or it has left at last.
        ("retired", "running", "retired"),
        ("retired", None, "retired"),
        ("retired", "paused", "paused"),
        ("lost", "running", None),
    ],
)
def test_an_error_says_what_was_the_matter_before(said, now, kind):
    statuses = {"a": "running"} | ({} if now is None else {"b": now})
    found = departure_named(WorkerLostError("why", ("b",), said), statuses)
    assert (None if found is None else found.kind) == kind
    if kind is not None:
        assert found.workers == ("b",)
