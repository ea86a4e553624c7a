"""Where checkpoints are: one file per fit in a directory, or below a URL."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import psutil
from fsspec.implementations.local import LocalFileSystem

from skdistmlp.checkpoints import file_format
from skdistmlp.checkpoints.file_format import Summary
from skdistmlp.exceptions import CheckpointError
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.state import TrainingState

SUFFIX = ".checkpoint"

ABSENT = FileNotFoundError, NotADirectoryError
"""What says that there is no such file, also if its directory has become a file."""

ABANDONED_AFTER = timedelta(days=1)
"""Since its last change, how old an unfinished file of another machine is when it is
removed: whether its process is still there, nobody here knows."""


def open_location(location: str | os.PathLike[str]) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path there.

    Raises
    ------
    ValueError
        If nothing is installed that reads such a URL.
    """
    text = os.fspath(location)
    if not text:
        raise ValueError(
            "checkpoint='' is no directory. Pass one, such as 'checkpoints'."
        )
    if "://" not in text:
        # fsspec takes "::" in a path for a chain of URLs.
        path = Path(os.path.abspath(os.path.expanduser(text)))
        return LocalFileSystem(), path.as_posix()
    try:
        files, path = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"checkpoint={text!r} cannot be opened: {error}. Pass a directory, or a "
            f"URL that fsspec knows."
        ) from error
    return files, path


class CheckpointFile:
    """The checkpoint of one fit.

    Parameters
    ----------
    location : str or path
        The directory, or URL of one; it is made if it is not there.
    job : TrainingJob
        What is trained, before it is split.
    n_rows : int
        Rows of the fit.
    fingerprint : str
        Of the fit: the name of its file.

    Raises
    ------
    ValueError
        If the directory cannot be made or written to.
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        job: TrainingJob,
        n_rows: int,
        fingerprint: str,
    ) -> None:
        self._job = job
        self._n_rows = n_rows
        self._fingerprint = fingerprint
        self._files, directory = open_location(location)
        self._path = f"{directory.rstrip('/')}/{fingerprint}{SUFFIX}"
        self._directory = directory
        # Of the file as this fit has read or written it last.
        self._version: str | None = None
        try:
            # Now, not after an hour.
            self._probe()
        # What other file systems raise, each decides.
        except Exception as error:
            raise ValueError(
                f"checkpoint={os.fspath(location)!r} cannot be written to: {error}. "
                f"Pass a directory, which need not exist, or a URL."
            ) from error

    def __str__(self) -> str:
        return _full_name(self._files, self._path)

    @property
    def _is_local(self) -> bool:
        return isinstance(self._files, LocalFileSystem)

    def _probe(self) -> None:
        """Raise if nothing can be written."""
        self._files.makedirs(self._directory, exist_ok=True)
        if self._is_local:
            with tempfile.TemporaryFile(dir=self._directory):
                return
        probe = f"{self._path}.probe"
        self._files.pipe_file(probe, b"")
        # Some may write and not delete.
        with suppress(Exception):
            self._files.rm_file(probe)

    def load(self) -> TrainingState | None:
        """Return the state in it; None if there is no such file.

        Raises
        ------
        CheckpointError
            If it is no checkpoint of this fit that this version can read.
        """
        # Before it is read: what replaces it meanwhile is another version.
        version = self._version_there()
        with self._open() as file:
            if file is None:
                return None
            state = file_format.read(
                file, str(self), self._job, self._n_rows, self._fingerprint
            )
        self._version = version
        return state

    def count_others(self) -> int:
        """Return the number of checkpoints of other fits in the directory."""
        try:
            paths = self._files.ls(self._directory, detail=False)
        # Whoever may read and write files there need not be allowed to list them.
        except Exception:
            return 0
        others = {path.rpartition("/")[2] for path in paths if path.endswith(SUFFIX)}
        return len(others - {f"{self._fingerprint}{SUFFIX}"})

    @property
    def directory(self) -> str:
        """Name of the directory, or URL of it."""
        return _full_name(self._files, self._directory)

    def save(self, state: TrainingState) -> None:
        """Write a state, in place of the one before: a reader sees either.

        If that fails, the one before stays.

        Raises
        ------
        CheckpointError
            If something else has taken the place of the file since this fit has read or
            written it.
        """
        written = datetime.now(UTC).isoformat(timespec="seconds")

        def write(file: BinaryIO) -> None:
            file_format.write(
                file, self._job, state, self._n_rows, self._fingerprint, written
            )

        # Somebody may have removed it.
        self._files.makedirs(self._directory, exist_ok=True)
        self._check_own()
        if self._is_local:
            _replace_file(Path(self._path), write, self._check_own)
        else:
            # What is atomic there, only fsspec knows.
            with self._files.transaction, self._files.open(self._path, "wb") as file:
                write(file)
        self._version = self._version_there()

    def remove(self) -> None:
        """Remove it, and what processes that were killed have left of it.

        Raises
        ------
        CheckpointError
            As for `save`.
        """
        if self._is_local:
            for unfinished in _unfinished(Path(self._path)):
                unfinished.unlink(missing_ok=True)
        with suppress(*ABSENT):
            self._check_own()
            self._files.rm_file(self._path)

    def _version_there(self) -> str | None:
        """Return what changes whenever somebody writes the file; None if there is none.

        For local files, that is a hash of their inode, size and times.
        """
        try:
            # Somebody else may have written it.
            self._files.invalidate_cache(self._directory)
            return str(self._files.ukey(self._path))
        except ABSENT:
            return None
        # What other file systems raise, each decides.
        except Exception:
            # Like no other, so that the file is looked into.
            return uuid.uuid4().hex

    def _check_own(self) -> None:
        """Raise if the file there is not of this fit, whoever has written it.

        Another process may run the same fit. Only what this one does not know yet is
        looked into, so a file is read once at most.
        """
        if self._version_there() in (None, self._version):
            return
        with self._open() as file:
            if file is not None:
                file_format.verify(file, str(self), self._fingerprint)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO | None]:
        """Open the file for reading, if it is there.

        Raises
        ------
        CheckpointError
            If it cannot be read.
        """
        try:
            file = self._files.open(self._path, "rb")
        except ABSENT:
            yield None
            return
        except Exception as error:
            raise CheckpointError(
                f"{self} cannot be read: {error}. Move it away, or pass another "
                f"directory as checkpoint."
            ) from error
        with file:
            yield file


def _replace_file(
    path: Path, write: Callable[[BinaryIO], None], check: Callable[[], None]
) -> None:
    """Replace a file by what `write` writes, as a whole, unless `check` then raises."""
    for unfinished in _unfinished(path):
        unfinished.unlink(missing_ok=True)
    with _temporary_file(path) as (file, name):
        write(file)
        file.flush()
        # Otherwise a crash of the machine could leave the new name without its bytes.
        os.fsync(file.fileno())
        # As late as can be: writing takes seconds.
        check()
        os.replace(name, path)
    with suppress(OSError):
        # The name too, where directories can be flushed.
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextmanager
def _temporary_file(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Yield a new file next to `path`; remove it unless it was renamed.

    Its name says which process writes it: another may write the same fit, or remove
    what was left of it. Who may read it, the umask decides, as for any file: the owner
    of a fit need not be the one who resumes it.
    """
    name = f"{path}.{_host()}-{os.getpid()}.{uuid.uuid4().hex}.tmp"
    try:
        with open(name, "xb") as file:
            yield file, name
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _unfinished(path: Path) -> list[Path]:
    """Return what processes that were killed have left of a file."""
    found = path.parent.glob(f"{path.name}.*.tmp")
    return [unfinished for unfinished in found if _is_abandoned(unfinished)]


def _is_abandoned(unfinished: Path) -> bool:
    """Say whether nobody writes a temporary file any more, as far as can be known."""
    try:
        changed_at = unfinished.stat().st_mtime
    except FileNotFoundError:
        return False
    *_, writer, _, _ = unfinished.name.split(".")
    host, _, pid = writer.rpartition("-")
    if host != _host() or not pid.isdecimal():
        return time.time() - changed_at > ABANDONED_AFTER.total_seconds()
    try:
        # A container may give each process the same number.
        return psutil.Process(int(pid)).create_time() > changed_at
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


@cache
def _host() -> str:
    """Return the name of this machine, as it may stand in the name of a file."""
    return re.sub(r"\W", "_", socket.gethostname())[:64]


def _full_name(files: Any, path: str) -> str:
    """Return a path, with its protocol unless it is local."""
    if isinstance(files, LocalFileSystem):
        return path
    name: str = files.unstrip_protocol(path)
    return name


def summaries(
    location: str | os.PathLike[str],
) -> Iterator[tuple[str, Summary | CheckpointError]]:
    """Yield name and summary of a checkpoint, or of all in a directory or URL.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    """
    files, path = open_location(location)
    if files.isdir(path):
        paths = [p for p in sorted(files.ls(path, detail=False)) if p.endswith(SUFFIX)]
    else:
        paths = [path]
    for one in paths:
        name = _full_name(files, one)
        try:
            with files.open(one, "rb") as file:
                yield name, file_format.read_summary(file, name)
        except CheckpointError as error:
            yield name, error
        except OSError as error:
            if one == path:
                raise
            yield name, CheckpointError(f"{name} cannot be read: {error}")
