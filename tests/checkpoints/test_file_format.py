"""Checkpoints as files: what is written is read, and nothing else is."""

import io
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdistmlp import CheckpointError
from skdistmlp.checkpoints import file_format
from skdistmlp.training.job import LbfgsTraining
from skdistmlp.training.progress import LbfgsProgress
from skdistmlp.training.scipy_lbfgs import LbfgsOptions
from skdistmlp.training.state import TrainingState
from tests.checkpoints.support import state_after
from tests.training.jobs import CASES, N_ROWS, job_of

PRINT = "0123456789abcdef"
WRITTEN = "2026-01-02T03:04:05+00:00"


def written(job, state):
    file = io.BytesIO()
    file_format.write(file, job, state, N_ROWS, PRINT, WRITTEN)
    return file.getvalue()


def read(content, job, fingerprint=PRINT):
    return file_format.read(io.BytesIO(content), "a file", job, N_ROWS, fingerprint)


def arrays_of(state):
    network = state.network
    optimizer = [] if network.optimizer is None else network.optimizer.arrays
    rows = [state.row_order, state.held_out]
    arrays = [network.parameters, network.best, *optimizer, *rows]
    return [array for array in arrays if array is not None]


JOBS = {
    **{name: lambda name=name: job_of(name) for name in CASES},
    "average": lambda: replace(job_of("adam"), ema_decay=0.9),
    "float32": lambda: replace(job_of("adam"), dtype=np.dtype(np.float32)),
    "PCG64": lambda: replace(
        job_of("adam"),
        initial=replace(
            job_of("adam").initial,
            random_state=np.random.RandomState(np.random.PCG64(3)),
        ),
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_what_is_written_is_read(name):
    job = JOBS[name]()
    state = state_after(job, name)
    found = read(written(job, state), JOBS[name]())
    assert len(arrays_of(found)) == len(arrays_of(state))
    for ours, theirs in zip(arrays_of(found), arrays_of(state), strict=True):
        assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert found.progress == state.progress
    assert found.network.dropout_seed == state.network.dropout_seed
    assert found.outcome is None
    assert_array_equal(found.random_state.rand(1000), state.random_state.rand(1000))


def lbfgs():
    job = job_of("adam")
    initial = replace(job.initial, progress=None)
    return replace(
        job, rule=None, method=LbfgsTraining(LbfgsOptions(9, 99, 1e-4)), initial=initial
    )


def test_a_state_of_lbfgs_is_read():
    job, trained = lbfgs(), state_after(job_of("adam"), "adam")
    network = replace(trained.network, optimizer=None)
    progress = LbfgsProgress(3, 0.25, 7)
    state = TrainingState(network, np.random.RandomState(0), progress)
    found = read(written(job, state), job)
    assert found.progress == progress
    assert_array_equal(found.network.parameters, network.parameters)
    assert found.row_order is None


@pytest.fixture(scope="module")
def content():
    job = job_of("early stopping")
    return written(job, state_after(job, "early stopping"))


def test_the_summary_says_what_is_in_it(content):
    summary = file_format.read_summary(io.BytesIO(content), "a file")
    assert summary.solver == "adam"
    assert summary.layer_units == (64, 9, 8, 10)
    assert (summary.dtype, summary.n_rows) == ("float64", N_ROWS)
    assert (summary.fingerprint, summary.written) == (PRINT, WRITTEN)
    assert summary.progress["n_iter"] == 2


def refused(content, match, job=None):
    with pytest.raises(CheckpointError, match=match) as error:
        read(content, job or job_of("early stopping"))
    assert str(error.value).startswith("a file ")
    return str(error.value)


def test_a_file_cut_off_anywhere_is_refused(content):
    rng = np.random.default_rng(0)
    for length in [0, 1, len(content) - 1, *rng.integers(len(content), size=40)]:
        message = refused(content[:length], "no checkpoint of skdistmlp, or a damaged")
        assert "It is left as it is." in message


def test_a_file_with_a_byte_changed_anywhere_is_refused_or_read_as_it_was(content):
    """ZIP has redundant fields, of which not all are read; none changes the state."""
    job = job_of("early stopping")
    right = read(content, job)
    names = [name.encode() for name in zipfile.ZipFile(io.BytesIO(content)).namelist()]
    directory = content.rindex(names[0])
    rng, n_refused = np.random.default_rng(0), 0
    places = [
        # Most of it is arrays. The header, the names, and what ends the file.
        *rng.integers(len(content), size=100),
        *range(directory - 50, len(content)),
        *range(200),
    ]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        try:
            found = read(bytes(damaged), job)
        except CheckpointError:
            n_refused += 1
            continue
        assert found.progress == right.progress
        assert len(arrays_of(found)) == len(arrays_of(right))
        for ours, theirs in zip(arrays_of(found), arrays_of(right), strict=True):
            assert_array_equal(ours, theirs)
    assert n_refused > len(places) // 2


def changed(content, header=None, **arrays):
    """Return a file with other arrays, or another header."""
    with np.load(io.BytesIO(content)) as found:
        members = dict(found) | arrays
    if header is not None:
        before = json.loads(members["header"].tobytes())
        text = json.dumps(before | header).encode()
        members["header"] = np.frombuffer(text, np.uint8)
    file = io.BytesIO()
    np.savez(file, **members)
    return file.getvalue()


@pytest.mark.parametrize(
    "header",
    [
        {"format": "something else"},
        {"version": "1"},
        {"progress": {"kind": "epochs"}},
        {"progress": {"kind": "other"}},
        {"progress": None},
        {"random_state": {"bit_generator": "PCG64", "state": {}}},
        {"random_state": {}},
        {"n_steps": None},
    ],
)
def test_a_header_that_says_something_else_is_refused(content, header):
    refused(changed(content, header), "no checkpoint of skdistmlp, or a damaged")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("parameters", np.zeros(3)),
        ("parameters", np.zeros(0, np.float32)),
        ("moment_0", np.zeros((2, 3))),
        ("best", np.zeros(5, complex)),
        ("row_order", np.zeros(N_ROWS + 1, np.uint8)),
        ("row_order", np.full(4, N_ROWS, np.uint8)),
        ("held_out", np.zeros(4, np.int64)),
    ],
)
def test_arrays_that_do_not_belong_to_the_job_are_refused(content, name, array):
    refused(changed(content, **{name: array}), f"{name} has")


def test_nothing_is_unpickled(content):
    class Attack:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    evil = np.array([Attack()], dtype=object)
    refused(changed(content, parameters=evil), "parameters has")
    refused(changed(content, header=None) and pickle.dumps(Attack()), "no checkpoint")


def test_an_array_of_another_size_is_refused_before_it_is_read(content):
    """Whatever a header claims, no more memory is taken than the job needs."""
    claimed = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        claimed, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)}
    )
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(file, "w") as new,
    ):
        for name in old.namelist():
            own = claimed.getvalue() if name == "parameters.npy" else old.read(name)
            new.writestr(name, own)
    refused(file.getvalue(), "parameters has")


def test_a_newer_format_is_refused_by_its_version(content):
    newer = changed(content, {"version": 2, "package": "9.9"})
    message = refused(newer, "was written by skdistmlp 9.9 in version 2 of the format")
    assert "Upgrade skdistmlp" in message


def test_the_checkpoint_of_another_fit_is_refused(content):
    with pytest.raises(CheckpointError, match="a file is the checkpoint of another"):
        read(content, job_of("early stopping"), "ffff")
