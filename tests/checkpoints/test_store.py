"""Files of checkpoints: replaced as a whole, in directories and below URLs."""

import io
import os
import shutil
import subprocess
import sys
import uuid
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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_the_umask_decides_who_may_read_a_file(tmp_path, state, umask, mode):
    before = os.umask(umask)
    try:
        file = file_in(tmp_path)
        for _ in range(2):
            file.save(state)
            assert Path(str(file)).stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


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


def ended_process():
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def unfinished(tmp_path):
    """Return a function that leaves an unfinished file of a process."""

    def unfinished(pid, host=None, name=PRINT, is_old=False):
        writer = f"{host or store._host()}-{pid}"
        path = tmp_path / f"{name}.checkpoint.{writer}.{uuid.uuid4().hex}.tmp"
        path.write_bytes(b"half")
        if is_old:
            os.utime(path, (0, 0))
        return path.name

    return unfinished


def test_what_killed_processes_have_left_is_removed(tmp_path, state, unfinished):
    file, ended = file_in(tmp_path), ended_process()
    for _ in range(2):
        unfinished(ended)
    # Of processes that had the numbers of this one, and of another machine.
    unfinished(os.getpid(), is_old=True)
    unfinished(1, host="elsewhere", is_old=True)
    another = unfinished(ended, name="another")
    file.save(state)
    assert set(os.listdir(tmp_path)) == {another, f"{PRINT}.checkpoint"}
    unfinished(ended)
    file.remove()
    assert os.listdir(tmp_path) == [another]


def test_what_other_processes_write_is_left_alone(tmp_path, state, unfinished):
    file = file_in(tmp_path)
    others = {unfinished(os.getppid()), unfinished(1, host="elsewhere")}
    file.save(state)
    file.remove()
    assert set(os.listdir(tmp_path)) == others


def replace_bytes(file, content):
    """Write a file as somebody else might; return its bytes."""
    with fsspec.open(str(file), "wb") as other:
        other.write(content)
    return content


def bytes_of(file):
    with fsspec.open(str(file), "rb") as there:
        return there.read()


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize("kind", ["foreign", "torn", "of another fit", "newer"])
def test_what_somebody_else_has_put_in_its_place_stays(
    location, state, kind, is_resumed, monkeypatch
):
    file = file_in(location)
    file.save(state)
    if is_resumed:
        file = file_in(location)
        file.load()
    content = bytes_of(file)
    if kind == "torn":
        content = content[:-10]
    elif kind == "foreign":
        content = b"precious"
    else:
        with monkeypatch.context() as patch:
            if kind == "newer":
                patch.setattr(file_format, "VERSION", file_format.VERSION + 1)
            other = io.BytesIO()
            fingerprint = PRINT if kind == "newer" else "another"
            file_format.write(other, job_of("adam"), state, N_ROWS, fingerprint, "now")
            content = other.getvalue()
    content = replace_bytes(file, content)
    for write_or_remove in (lambda: file.save(state), file.remove):
        with pytest.raises(CheckpointError) as error:
            write_or_remove()
        assert str(error.value).startswith(f"{file} ")
        assert bytes_of(file) == content
    file._files.rm_file(file._path)
    file.save(state)
    assert file.load().progress == state.progress


def test_what_comes_while_a_file_is_written_stays(tmp_path, state, monkeypatch):
    file = file_in(tmp_path)
    file.save(state)
    write = file_format.write

    def write_and_be_overtaken(*args):
        write(*args)
        replace_bytes(file, b"precious")

    monkeypatch.setattr(file_format, "write", write_and_be_overtaken)
    with pytest.raises(CheckpointError, match="no checkpoint of skdistmlp"):
        file.save(state)
    assert bytes_of(file) == b"precious"
    assert os.listdir(tmp_path) == [f"{PRINT}.checkpoint"]


def test_a_file_is_looked_into_only_if_another_has_written_it(
    location, state, monkeypatch
):
    looks, verify = [], file_format.verify

    def noted(file, name, fingerprint):
        looks.append(name)
        verify(file, name, fingerprint)

    monkeypatch.setattr(file_format, "verify", noted)
    file = file_in(location)
    for _ in range(3):
        file.save(state)
    assert looks == []
    # Another process that runs the same fit.
    file_in(location).save(state)
    n_looks = len(looks)
    file.save(state)
    assert len(looks) > n_looks
    file.remove()
    assert list(summaries(location)) == []


def test_the_same_fit_may_be_written_twice_at_once(tmp_path, state, monkeypatch):
    write = file_format.write
    nested = []

    def write_and_be_overtaken(*args):
        if not nested:
            nested.append(args)
            file_in(tmp_path).save(state)
        write(*args)

    monkeypatch.setattr(file_format, "write", write_and_be_overtaken)
    file = file_in(tmp_path)
    file.save(state)
    assert file.load().progress == state.progress
    assert os.listdir(tmp_path) == [f"{PRINT}.checkpoint"]


def test_other_files_of_the_directory_are_left_alone(tmp_path, state):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other.checkpoint").write_text("mine too")
    file = file_in(tmp_path)
    file.save(state)
    file.remove()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert file.count_others() == 1
    ((name, error),) = summaries(tmp_path)
    assert isinstance(error, CheckpointError)
    assert name == str(tmp_path / "other.checkpoint")
    assert name in str(error)


def test_nothing_is_left_to_remove_of_a_directory_that_is_gone(tmp_path, state):
    directory = tmp_path / "fits"
    file = file_in(directory)
    file.save(state)
    shutil.rmtree(directory)
    file.remove()
    directory.write_text("a file now")
    file.remove()
    assert file.load() is None
    assert directory.read_text() == "a file now"


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
