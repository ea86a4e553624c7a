"""What tells one fit from another: a hash of all that decides its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from numbers import Integral, Real
from types import CodeType, FunctionType
from typing import Any

import numpy as np
from scipy.sparse import issparse

from skdistmlp.parallel.data import BaseDataset
from skdistmlp.training.job import TrainingJob

DIGEST_BYTES = 16
"""Bytes of a fingerprint: of 10^9 fits, two share theirs with probability 10^-21."""


def fingerprint(job: TrainingJob, dataset: BaseDataset) -> str:
    """Return what two fits share only if they are to give the same parameters.

    Where and on how many workers a network is trained is no part of it, nor is what is
    printed.

    Parameters
    ----------
    job : TrainingJob
        The job, before it is split.
    dataset : BaseDataset
        All rows.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    initial = job.initial
    digest = _Digest()
    for value in (
        job.network,
        job.dtype,
        job.method,
        job.rule,
        job.ema_decay,
        initial.network,
        initial.progress,
        _drawn_from(initial.random_state),
        dataset.content(),
    ):
        digest.add(value)
    return digest.hexdigest()


def _drawn_from(random_state: np.random.RandomState) -> Any:
    """Return what the next draws depend on."""
    # NumPy's own: nobody expects two fits to draw the same, and one that is resumed
    # goes on with what it has drawn.
    if random_state is np.random.mtrand._rand:
        return "global"
    return random_state.get_state(legacy=False)


class _Digest:
    """A hash of values by what they are, the same in every process.

    Not of pickles, whose bytes depend on which objects are the same one.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        # What is being added: a function may refer to itself.
        self._open: set[int] = set()

    def hexdigest(self) -> str:
        """Return the hash of all that was added."""
        return self._hash.hexdigest()

    def add(self, value: Any) -> None:
        """Add a value."""
        if id(value) in self._open:
            self._note("itself")
            return
        self._open.add(id(value))
        try:
            self._add(value)
        finally:
            self._open.remove(id(value))

    def _add(self, value: Any) -> None:
        if value is None or isinstance(value, bool | str | bytes | np.dtype):
            self._note(type(value).__name__, value)
        elif isinstance(value, Integral):
            self._note("int", int(value))
        elif isinstance(value, Real):
            self._note("float", float(value).hex())
        elif isinstance(value, Enum | type):
            self._note(_name_of(type(value)), value)
        elif isinstance(value, np.ndarray):
            self._add_array(value)
        elif issparse(value):
            self._add_all("sparse", (value.shape, *_parts_of(value)))
        elif isinstance(value, Mapping):
            by_name = sorted(value.items(), key=lambda item: repr(item[0]))
            self._add_all("mapping", [part for item in by_name for part in item])
        elif isinstance(value, frozenset | set):
            # In an order that does not depend on the hashes of a process.
            self._add_all("set", sorted(value, key=repr))
        elif isinstance(value, tuple | list):
            self._add_all("sequence", value)
        elif isinstance(value, CodeType):
            self._add_all("code", (value.co_code, value.co_consts, value.co_names))
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, partial):
            self._add_all("partial", (value.func, value.args, value.keywords))
        else:
            self._add_object(value)

    def _add_array(self, array: np.ndarray) -> None:
        if array.dtype.hasobject:
            self._add_all("objects", array.tolist())
            return
        self._note("array", array.dtype.str, array.shape)
        self._hash.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _add_function(self, function: FunctionType) -> None:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        self._add_all(
            _name_of(function),
            (function.__code__, function.__defaults__, function.__kwdefaults__, cells),
        )

    def _add_object(self, value: Any) -> None:
        if is_dataclass(value):
            attributes = {
                field.name: getattr(value, field.name) for field in fields(value)
            }
        else:
            attributes = getattr(value, "__dict__", {})
        # Functions that are not written in Python have a name of their own.
        named = value if hasattr(value, "__qualname__") else type(value)
        self._add_all(
            _name_of(named),
            [part for item in sorted(attributes.items()) for part in item],
        )

    def _add_all(self, kind: str, values: Any) -> None:
        # The number, so that no two nestings look the same.
        self._note(kind, len(values))
        for value in values:
            self.add(value)

    def _note(self, *what: Any) -> None:
        text = repr(what).encode()
        self._hash.update(b"%d:%b" % (len(text), text))


def _parts_of(rows: Any) -> tuple[np.ndarray, ...]:
    return rows.data, rows.indices, rows.indptr


def _name_of(what: type | Callable[..., Any]) -> str:
    return f"{what.__module__}.{what.__qualname__}"
