"""When the state is written, when it is only copied, and what happens at the end."""

import errno
import os
from dataclasses import replace

import dask
import pytest

from skdistmlp import ClusterError
from skdistmlp.checkpoints.checkpointing import Checkpointing, checkpointing
from skdistmlp.checkpoints.fingerprint import fingerprint
from skdistmlp.training.progress import LbfgsProgress, Outcome
from tests.checkpoints.support import state_after
from tests.training.clock import Clock
from tests.training.jobs import dataset_of, job_of


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Recorder:
    """In place of a file: which epochs were written."""

    def __init__(self, clock, writing_s=0.0):
        self.clock, self.writing_s = clock, writing_s
        self.saved, self.is_there, self.fails = [], False, False
        self.error = OSError("no space left")

    def __str__(self):
        return "the/file"

    def load(self):
        return None

    def count_others(self):
        return 0

    def save(self, state):
        self.clock.now += self.writing_s
        if self.fails:
            raise self.error
        self.saved.append(state.progress.n_iter)
        self.is_there = True

    def remove(self):
        if self.fails:
            raise PermissionError("not allowed")
        self.is_there = False


STATE = state_after(job_of("adam"), "adam")


def state_of(n_iter):
    return replace(STATE, progress=replace(STATE.progress, n_iter=n_iter))


def epochs(kept, clock, number, epoch_s, copying_s=0.0):
    """Train for some epochs; return those after which the state was copied."""
    copied = []

    def snapshot(n_iter):
        clock.now += copying_s
        copied.append(n_iter)
        return state_of(n_iter)

    for n_iter in range(1, number + 1):
        clock.now += epoch_s
        kept.offer(state_of(n_iter), lambda n_iter=n_iter: snapshot(n_iter))
    return copied


def test_files_are_written_at_most_every_interval(clock):
    file = Recorder(clock)
    epochs(Checkpointing(file, 60), clock, 200, 1)
    assert file.saved == [60, 120, 180]


def test_what_takes_long_to_write_is_written_more_seldom(clock):
    file = Recorder(clock, writing_s=4)
    epochs(Checkpointing(file, 60), clock, 800, 1)
    # The first two are 2% of 400 s, 4 of which went by in writing; then, there are
    # 200 s between two files.
    assert file.saved == [60, 396, 596, 796]


def test_copies_in_memory_take_two_percent_of_the_time(clock):
    file = Recorder(clock)
    copied = epochs(Checkpointing(file, 1e6), clock, 1000, 1, copying_s=1)
    assert file.saved == []
    assert copied == [1, *range(99, 1000, 50)]


def test_the_newest_copy_is_written_if_the_fit_ends_early(clock):
    file = Recorder(clock)
    kept = Checkpointing(file, 60)
    epochs(kept, clock, 70, 1)
    kept.end(Outcome.INTERRUPTED)
    kept.close()
    kept.remove()
    assert file.is_there
    assert file.saved == [60, 70]
    assert "the/file has its state after epoch 70" in kept.advice


@pytest.mark.parametrize(
    "outcome", [*(o for o in Outcome if o is not Outcome.INTERRUPTED), "SciPy's"]
)
def test_nothing_is_left_of_a_fit_that_has_ended(clock, outcome):
    file = Recorder(clock)
    kept = Checkpointing(file, 60)
    epochs(kept, clock, 70, 1)
    assert file.is_there
    kept.end(outcome)
    kept.close()
    # Until the callbacks have had their say.
    assert file.is_there
    kept.remove()
    assert not file.is_there
    assert file.saved == [60]
    assert kept.advice is None


def test_a_failed_write_warns_once_and_is_tried_again(clock):
    file = Recorder(clock)
    kept = Checkpointing(file, 60)
    file.fails = True
    with pytest.warns(UserWarning, match="the/file could not be written: no space"):
        epochs(kept, clock, 60, 1)
    epochs(kept, clock, 60, 1)
    assert kept.advice is None
    file.fails = False
    kept.close()
    assert file.saved == [60]


def offer(kept, clock, n_iter):
    """Offer the state after an epoch, when it is time to write a file."""
    clock.now += 60
    kept.offer(state_of(n_iter), lambda: state_of(n_iter))


def test_each_new_kind_of_failure_is_told(clock, recwarn):
    file = Recorder(clock)
    kept = Checkpointing(file, 60)
    file.fails, gone = True, FileNotFoundError(errno.ENOENT, "it is gone")
    full = OSError(errno.ENOSPC, "no space left")
    for n_iter, error in enumerate((gone, gone, full, gone, full), 1):
        file.error = error
        offer(kept, clock, n_iter)
    told = [str(warning.message) for warning in recwarn]
    assert len(told) == 2
    assert "it is gone" in told[0]
    assert "no space left" in told[1]


def test_a_failure_after_a_file_was_written_is_told_again(clock):
    file = Recorder(clock)
    kept = Checkpointing(file, 60)
    for n_iter in (1, 3):
        file.fails = True
        with pytest.warns(UserWarning, match="could not be written: no space left"):
            offer(kept, clock, n_iter)
        file.fails = False
        offer(kept, clock, n_iter + 1)


@pytest.mark.parametrize("is_written", [False, True])
def test_a_fit_that_ends_early_says_that_its_last_state_is_lost(clock, is_written):
    """Although it has said before that a file could not be written."""
    file = Recorder(clock)
    kept = Checkpointing(file, 60)
    if is_written:
        epochs(kept, clock, 60, 1)
    file.fails = True
    with pytest.warns(UserWarning, match="tries again later"):
        offer(kept, clock, 70)
    kept.end(Outcome.INTERRUPTED)
    there = "has that after epoch 60" if is_written else "is not there"
    said = (
        r"the/file could not be written: no space left\. The fit has ended, and its "
        rf"state after epoch 70 is lost: the file {there}\."
    )
    with pytest.warns(UserWarning, match=said):
        kept.close()


def test_a_fit_whose_l_bfgs_began_again_says_so(clock):
    file = Recorder(clock)
    state = replace(STATE, progress=LbfgsProgress(20, 0.5))
    file.load = lambda: state
    kept = Checkpointing(file, 60)
    kept.load()
    said = "the fit resumed from the/file, after iteration 20, where L-BFGS began again"
    assert kept.notice.startswith(said)
    assert "has its state after iteration 20" in kept.advice
    file.load = lambda: STATE
    kept = Checkpointing(file, 60)
    kept.load()
    assert kept.notice is None


@pytest.mark.parametrize("error", [ClusterError, KeyboardInterrupt])
def test_errors_that_pass_name_the_checkpoint(tmp_path, error):
    def train():
        with checkpointing(tmp_path, job_of("adam"), dataset_of("adam")) as kept:
            kept.offer(STATE, lambda: STATE)
            raise error("the scheduler is gone")

    with (
        dask.config.set({"skdistmlp.checkpoint.interval": "0s"}),
        pytest.raises(error) as raised,
    ):
        train()
    (note,) = raised.value.__notes__
    (file,) = tmp_path.iterdir()
    assert note == (
        f"{file} has its state after epoch 2: fit with the same arguments resumes from "
        f"there."
    )


def test_nothing_is_kept_unless_it_is_asked_for():
    with checkpointing(None, job_of("adam"), dataset_of("adam")) as kept:
        assert kept is None


def test_the_last_state_of_a_run_that_failed_is_kept_if_it_is_newer(clock):
    file = Recorder(clock)
    kept = Checkpointing(file, 60)
    epochs(kept, clock, 61, 1)
    older, newer = state_of(50), state_of(70)
    kept.keep(older)
    kept.keep(newer)
    kept.keep(state_of(65))
    kept.close()
    assert file.saved == [60, 70]


def test_a_file_that_cannot_be_removed_costs_a_warning(clock):
    file = Recorder(clock)
    kept = Checkpointing(file, 60)
    kept.end(Outcome.CONVERGED)
    file.fails = True
    with pytest.warns(UserWarning, match="the/file could not be removed: not allowed"):
        kept.remove()


def test_a_file_of_somebody_else_is_named_and_left_alone(tmp_path, clock, recwarn):
    """While the fit goes on."""
    name = fingerprint(job_of("adam"), dataset_of("adam"))
    file = tmp_path / f"{name}.checkpoint"
    with checkpointing(tmp_path, job_of("adam"), dataset_of("adam")) as kept:
        offer(kept, clock, 2)
        file.write_bytes(b"precious")
        for n_iter in (3, 4):
            offer(kept, clock, n_iter)
        kept.end(Outcome.CONVERGED)
    kept.remove()
    # Once each, from the fit that goes on and from its end.
    writing, removing = [str(warning.message) for warning in recwarn]
    said = f"the checkpoint {file} could not be written: {file} is no checkpoint"
    assert writing.startswith(said)
    assert writing.endswith("as checkpoint. The fit goes on, and tries again later.")
    assert removing.startswith(f"{file} is no checkpoint")
    assert file.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == [file.name]


def test_a_file_is_never_replaced_by_an_older_state(clock):
    file = Recorder(clock)
    kept = Checkpointing(file, 10)
    epochs(kept, clock, 40, 1)
    # After a recovery that began again.
    epochs(kept, clock, 60, 1)
    assert file.saved == sorted(file.saved)
    assert kept.newer_than(60) is None
    assert kept.newer_than(59).progress.n_iter == 60
