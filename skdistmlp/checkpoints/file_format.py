"""The format of a checkpoint: NumPy's ``.npz``, whose first array is a header in JSON.

Nothing in it is pickled. A ZIP file has its table of contents at its end and a checksum
of each array, so a torn or damaged one does not go unnoticed; and what the header says
of each array is compared with the job before an array is read.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any, BinaryIO

import numpy as np

from skdistmlp._version import __version__
from skdistmlp.exceptions import CheckpointError
from skdistmlp.nn.optimizers import init
from skdistmlp.nn.update_rules import UPDATE_RULES
from skdistmlp.parallel.shard import ShardState
from skdistmlp.parallel.split import count_parameters
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.progress import LbfgsProgress, Progress
from skdistmlp.training.state import TrainingState

FORMAT = "skdistmlp checkpoint"
VERSION = 1
"""Of the format: raised when older versions of the package could not read it."""

HEADER = "header"
MAX_HEADER_BYTES = 64 * 2**20
"""More than a header of a million epochs takes."""

KINDS: Mapping[str, type[Progress] | type[LbfgsProgress]] = {
    "epochs": Progress,
    "lbfgs": LbfgsProgress,
}


@dataclass(frozen=True)
class Summary:
    """What a checkpoint says of itself.

    Attributes
    ----------
    fingerprint : str
        Of the fit; see `skdistmlp.checkpoints.fingerprint`.
    package : str
        Version of skdistmlp that has written it.
    written : str
        When, in UTC, as ISO 8601.
    solver : str
        The solver.
    layer_units : tuple of int
        Features, neurons of each hidden layer, outputs.
    dtype : str
        "float32" or "float64".
    n_rows : int
        Rows of the fit, with those for validation.
    progress : dict
        How far training has come: the fields of `Progress` or `LbfgsProgress`.
    """

    fingerprint: str
    package: str
    written: str
    solver: str
    layer_units: tuple[int, ...]
    dtype: str
    n_rows: int
    progress: Mapping[str, Any]


def write(
    file: BinaryIO,
    job: TrainingJob,
    state: TrainingState,
    n_rows: int,
    fingerprint: str,
    written: str,
) -> None:
    """Write the state of a whole network, between two epochs.

    Parameters
    ----------
    file : binary file
        Open for writing.
    job : TrainingJob
        The job: what it says of the optimiser and the schedule is not written.
    state : TrainingState
        The state.
    n_rows : int
        Rows of the fit.
    fingerprint : str
        Of the fit.
    written : str
        The time.
    """
    network = state.network
    arrays = {"parameters": network.parameters}
    n_steps = None
    if (optimizer := network.optimizer) is not None:
        n_steps = optimizer.n_steps
        arrays |= {f"moment_{n}": a for n, a in enumerate(optimizer.moments)}
        if optimizer.average is not None:
            arrays["average"] = optimizer.average
    if network.best is not None:
        arrays["best"] = network.best
    for name in ("row_order", "held_out"):
        if (rows := getattr(state, name)) is not None:
            arrays[name] = rows.astype(np.min_scalar_type(max(n_rows - 1, 0)))
    header = {
        "format": FORMAT,
        "version": VERSION,
        "package": __version__,
        "written": written,
        "fingerprint": fingerprint,
        "solver": solver_of(job),
        "layer_units": job.network.layer_units,
        "dtype": job.dtype.name,
        "n_rows": n_rows,
        "progress": _plain_progress(state.progress),
        "n_steps": n_steps,
        "dropout_seed": network.dropout_seed,
        "random_state": _plain(state.random_state.get_state(legacy=False)),
        # The table of contents of a ZIP file has no checksum.
        "arrays": sorted(arrays),
    }
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    # The header first: whoever looks into a file reads little more than that.
    members: dict[str, Any] = {HEADER: text, **arrays}
    np.savez(file, **members)


def read_summary(file: BinaryIO, name: str) -> Summary:
    """Return what a checkpoint says of itself.

    Parameters
    ----------
    file : binary file
        Open for reading.
    name : str
        Its name, for errors.

    Raises
    ------
    CheckpointError
        If it is torn, no checkpoint, or of a newer version.
    """
    with _opened(file, name) as (_, header):
        return _summary(header)


def read(
    file: BinaryIO, name: str, job: TrainingJob, n_rows: int, fingerprint: str
) -> TrainingState:
    """Return the state in a checkpoint of this job.

    Parameters
    ----------
    file, name
        As for `read_summary`.
    job : TrainingJob
        The job that was begun.
    n_rows : int
        Rows of the fit.
    fingerprint : str
        Of the fit.

    Raises
    ------
    CheckpointError
        If it is torn, no checkpoint, of a newer version, or of another fit.
    """
    with _opened(file, name) as (archive, header):
        _check_fingerprint(header, name, fingerprint)
        names = sorted(f"{name}.npy" for name in (HEADER, *header["arrays"]))
        if sorted(archive.namelist()) != names:
            raise _damage(f"it has {', '.join(archive.namelist())}")
        return _state(_Arrays(archive), header, job, n_rows)


def verify(file: BinaryIO, name: str, fingerprint: str) -> None:
    """Raise unless it is a checkpoint of this fit, as far as its header tells.

    Parameters
    ----------
    file, name, fingerprint
        As for `read`.

    Raises
    ------
    CheckpointError
        As `read`.
    """
    with _opened(file, name) as (_, header):
        _check_fingerprint(header, name, fingerprint)


def _check_fingerprint(header: Mapping[str, Any], name: str, fingerprint: str) -> None:
    if header["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{name} is the checkpoint of another fit, copied or renamed. It is left "
            f"as it is. Move it away, or pass another directory as checkpoint."
        )


def solver_of(job: TrainingJob) -> str:
    """Return the name of the solver of a job."""
    rule = type(job.rule)
    return next((name for name, one in UPDATE_RULES.items() if one is rule), "lbfgs")


@contextmanager
def _opened(
    file: BinaryIO, name: str
) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any]]]:
    """Yield the archive and its header; what is wrong in the context is an error."""
    try:
        with warnings.catch_warnings(), zipfile.ZipFile(file) as archive:
            # NumPy's, of headers that look as if Python 2 had written them.
            warnings.simplefilter("ignore")
            header = _header(archive)
            if header["version"] > VERSION:
                raise CheckpointError(
                    f"{name} was written by skdistmlp {header['package']} in version "
                    f"{header['version']} of the format, and skdistmlp {__version__}, "
                    f"which is installed, reads versions up to {VERSION}. Upgrade "
                    f"skdistmlp, or pass another directory as checkpoint."
                )
            yield archive, header
    except CheckpointError:
        raise
    except MemoryError:
        raise
    # A damaged file can lead to nearly any other, down to Python's tokenizer.
    except Exception as error:
        raise CheckpointError(
            f"{name} is no checkpoint of skdistmlp, or a damaged one "
            f"({type(error).__name__}: {error}). It is left as it is. Move it away, or "
            f"pass another directory as checkpoint."
        ) from error


def _damage(what: str) -> ValueError:
    """Return the error of a file that is not as it was written; see `_opened`."""
    return ValueError(what)


def _header(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Return the header of an archive, if it has ours."""
    text = _Arrays(archive).read(
        HEADER, np.dtype(np.uint8), MAX_HEADER_BYTES, at_most=True
    )
    header = json.loads(text.tobytes())
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _damage(f"its header does not say {FORMAT!r}")
    if not isinstance(header["version"], int):
        raise _damage(f"its version is {header['version']!r}")
    return header


def _summary(header: Mapping[str, Any]) -> Summary:
    values = {field.name: header[field.name] for field in fields(Summary)}
    return Summary(**values | {"layer_units": tuple(values["layer_units"])})


class _Arrays:
    """The arrays of an archive, each of which is read only if it is what is expected.

    Parameters
    ----------
    archive : ZipFile
        The archive.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def __contains__(self, name: str) -> bool:
        return f"{name}.npy" in self._archive.namelist()

    def read(
        self, name: str, dtype: np.dtype[Any], size: int, at_most: bool = False
    ) -> np.ndarray:
        """Return an array of one dimension."""
        with self._archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise _damage(f"{name} is in version {version} of NumPy's format")
            shape, _, found = np.lib.format.read_array_header_1_0(file)
        if found != dtype or len(shape) != 1 or shape[0] > size:
            raise _damage(f"{name} has {shape} values of {found}")
        if shape[0] != size and not at_most:
            raise _damage(f"{name} has {shape[0]} values, expected {size}")
        # Again from its start. Read to its end, where its checksum is compared.
        with self._archive.open(f"{name}.npy") as file:
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):
                raise _damage(f"{name} has more bytes than values")
        return array


def _state(
    arrays: _Arrays, header: Mapping[str, Any], job: TrainingJob, n_rows: int
) -> TrainingState:
    """Return the state that `write` was given."""
    size = count_parameters(job.network.layer_units)
    network = ShardState(
        arrays.read("parameters", job.dtype, size),
        dropout_seed=header["dropout_seed"],
    )
    if job.rule is not None:
        # Warm starts go on with the rule that they began with.
        before = job.initial.network
        optimizer = None if before is None else before.optimizer
        optimizer = optimizer or init(job.rule, network.parameters, job.ema_decay)
        names = [f"moment_{n}" for n in range(len(optimizer.moments))]
        names += ["average"] * (optimizer.average is not None)
        read = [arrays.read(name, job.dtype, size) for name in names]
        optimizer = replace(optimizer.with_arrays(read), n_steps=int(header["n_steps"]))
        network = replace(network, optimizer=optimizer)
    if "best" in arrays:
        network = replace(network, best=arrays.read("best", job.dtype, size))
    random_state = deepcopy(job.initial.random_state)
    random_state.set_state(_with_arrays(header["random_state"]))
    return TrainingState(
        network,
        random_state,
        _progress(header["progress"], job.initial.progress),
        row_order=_rows(arrays, "row_order", n_rows),
        held_out=_rows(arrays, "held_out", n_rows),
    )


def _rows(arrays: _Arrays, name: str, n_rows: int) -> np.ndarray | None:
    """Return indices of rows, if there are any."""
    if name not in arrays:
        return None
    dtype = np.min_scalar_type(max(n_rows - 1, 0))
    rows = arrays.read(name, dtype, n_rows, at_most=True)
    if rows.size and rows.max() >= n_rows:
        raise _damage(f"{name} has row {rows.max()} of {n_rows}")
    return rows.astype(np.intp)


def _plain_progress(progress: Progress | LbfgsProgress | None) -> dict[str, Any]:
    assert progress is not None
    kind = "lbfgs" if isinstance(progress, LbfgsProgress) else "epochs"
    # The schedule is the job's.
    values = {k: v for k, v in vars(progress).items() if k != "schedule"}
    return {"kind": kind, **_plain(values)}


def _progress(
    plain: Mapping[str, Any], initial: Progress | None
) -> Progress | LbfgsProgress:
    kind = KINDS[plain["kind"]]
    names = {field.name for field in fields(kind)} - {"schedule"}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in plain.items()
        if name != "kind"
    }
    if set(values) != names:
        raise _damage(f"its progress has the fields {', '.join(sorted(values))}")
    if kind is LbfgsProgress:
        return LbfgsProgress(**values)
    assert initial is not None
    return Progress(schedule=initial.schedule, **values)


ARRAY = "array of"
"""Marks an array in JSON, of which the random state has a small one."""


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return {ARRAY: value.dtype.name, "values": value.tolist()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _with_arrays(value: Any) -> Any:
    """Return what `_plain` was given."""
    if not isinstance(value, dict):
        return value
    if ARRAY in value:
        return np.array(value["values"], np.dtype(value[ARRAY]))
    return {key: _with_arrays(one) for key, one in value.items()}
