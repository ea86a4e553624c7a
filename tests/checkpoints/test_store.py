"""Files of checkpoints: replaced as a whole, in directories and below URLs."""

import os
from pathlib import Path

import fsspec
import pytest

from skdistmlp import CheckpointError
from skdistmlp.checkpoints import file_format, store
from skdistmlp.checkpoints.store import CheckpointFile, summaries
from tests.checkpoints.support import state_after
from tests.training.jobs import N_ROWS, job_of

PRINT = "00ff"


@pytest.fixture(scope="module")
def state():
    return state_after(job_of("adam"), "adam")


@pytest.fixture(params=["path", "text", "URL", "memory"])
def location(request, tmp_path):
    directory = tmp_path / "some" / "where"
    if request.param == "memory":
        yield "memory://checkpoints/here"
        fsspec.filesystem("memory").rm("/checkpoints", recursive=True)
        return
    yield {"path": directory, "text": str(directory), "URL": directory.as_uri()}[
        request.param
    ]


def file_in(location):
    return CheckpointFile(location, job_of("adam"), N_ROWS, PRINT)


def test_a_state_is_saved_loaded_and_removed(location, state):
    file = file_in(location)
    assert file.load() is None
    file.save(state)
    assert file_in(location).load().progress == state.progress
    ((name, summary),) = summaries(location)
    assert name == str(file)
    assert name.endswith(f"/{PRINT}.checkpoint")
    assert summary.progress["n_iter"] == 2
    file.remove()
    assert file.load() is None
    assert list(summaries(location)) == []
    file.remove()


def test_a_home_directory_is_understood(monkeypatch, tmp_path, state):
    monkeypatch.setenv("HOME", str(tmp_path))
    file_in("~/fits").save(state)
    assert (tmp_path / "fits" / f"{PRINT}.checkpoint").is_file()


def failing(*args, **kwargs):
    raise OSError("no space left")


def test_a_file_that_cannot_be_written_leaves_the_one_before(
    location, state, monkeypatch
):
    file = file_in(location)
    file.save(state)
    monkeypatch.setattr(file_format, "write", failing)
    with pytest.raises(OSError, match="no space left"):
        file.save(state)
    monkeypatch.undo()
    assert file.load().progress == state.progress
    if "memory" not in str(file):
        assert os.listdir(Path(str(file)).parent) == [f"{PRINT}.checkpoint"]


def test_what_killed_processes_have_left_is_removed(tmp_path, state):
    file = file_in(tmp_path)
    for name in (f"{PRINT}.checkpoint.x1.tmp", f"{PRINT}.checkpoint.x2.tmp"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "another.checkpoint.x3.tmp").write_bytes(b"half")
    file.save(state)
    left = {"another.checkpoint.x3.tmp", f"{PRINT}.checkpoint"}
    assert set(os.listdir(tmp_path)) == left
    (tmp_path / f"{PRINT}.checkpoint.x4.tmp").write_bytes(b"half")
    file.remove()
    assert os.listdir(tmp_path) == ["another.checkpoint.x3.tmp"]


def test_other_files_of_the_directory_are_left_alone(tmp_path, state):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other.checkpoint").write_text("mine too")
    file = file_in(tmp_path)
    file.save(state)
    file.remove()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    ((name, error),) = summaries(tmp_path)
    assert isinstance(error, CheckpointError)
    assert name == str(tmp_path / "other.checkpoint")
    assert name in str(error)


def test_a_place_below_a_file_is_refused(tmp_path):
    place = tmp_path / "place"
    place.write_text("a file")
    with pytest.raises(ValueError, match="cannot be written to"):
        file_in(place / "below")


def test_a_protocol_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="'unknown://x' cannot be opened: Protocol"):
        file_in("unknown://x")


def test_a_directory_that_is_read_only_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(store.tempfile, "TemporaryFile", failing)
    with pytest.raises(ValueError, match="cannot be written to: no space left"):
        file_in(tmp_path)


def test_something_that_is_no_file_is_refused_by_name(tmp_path):
    file = file_in(tmp_path)
    (tmp_path / f"{PRINT}.checkpoint").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read") as error:
        file.load()
    assert str(file) in str(error.value)
