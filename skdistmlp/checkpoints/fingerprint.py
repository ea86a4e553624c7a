"""What tells one fit from another: a hash of all that decides its answer."""

from __future__ import annotations

import copyreg
import hashlib
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, partial
from numbers import Integral
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from scipy.sparse import issparse

from skdistmlp.parallel.array_digest import array_digest
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.training.hold_out import ScoreOfRows
from skdistmlp.training.job import TrainingJob

PACKAGE = __name__.partition(".")[0]

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

    Not of pickles, whose bytes depend on which objects are the same one, and which have
    the number of a notebook's process in them.
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
        elif isinstance(value, np.bool_):
            self._note("bool", bool(value))
        elif isinstance(value, Integral):
            self._note("int", int(value))
        elif isinstance(value, float | np.floating):
            self._note("float", float(value).hex())
        elif isinstance(value, Enum):
            self._note(_name_of(type(value)), value.name)
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
        elif isinstance(value, ScoreOfRows):
            self._add_all(_name_of(type(value)), value.content())
        else:
            self._add_other(value)

    def _add_other(self, value: Any) -> None:
        """Add code, or an object by its state."""
        if isinstance(value, ModuleType):
            self._note("module", value.__name__)
        elif isinstance(value, CodeType):
            self._add_all("code", (value.co_code, value.co_consts, value.co_names))
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, MethodType):
            self._add_all("method", (value.__self__, value.__func__))
        elif isinstance(value, partial):
            self._add_all("partial", (value.func, value.args, value.keywords))
        elif isinstance(value, type):
            self._add_class(value)
        elif is_dataclass(value):
            attributes = {f.name: getattr(value, f.name) for f in fields(value)}
            self._add_all("dataclass", (type(value), attributes))
        else:
            self._add_object(value)

    def _add_array(self, array: np.ndarray) -> None:
        if array.dtype.hasobject:
            self._add_all("objects", array.tolist())
            return
        self._note("array", array_digest(array))

    def _add_function(self, function: FunctionType) -> None:
        is_importable = _is_importable(function)
        if is_importable and _is_installed(function.__module__):
            # Not its code: that changes with each minor version of Python.
            self._note("function", _name_of(function))
            return
        cells = [_content_of(cell) for cell in function.__closure__ or ()]
        own = (function.__code__, function.__defaults__, function.__kwdefaults__)
        # What it refers to stays in its module.
        referred = {} if is_importable else _globals_of(function)
        self._add_all(_name_of(function), (*own, cells, referred))

    def _add_class(self, cls: type) -> None:
        # Of the user's own module, notebook or script, one of the same name may do
        # something else the next time.
        own, is_importable = {}, _is_importable(cls)
        if not (is_importable and _is_installed(cls.__module__)):
            hidden = {"__dict__", "__weakref__", "__doc__", "__module__"}
            own = {k: v for k, v in vars(cls).items() if k not in hidden}
            own = {k: getattr(v, "__func__", v) for k, v in own.items()}
            own |= {} if is_importable else {"bases": cls.__bases__}
        self._add_all(_name_of(cls), own.items())

    def _add_object(self, value: Any) -> None:
        """Add an object by what `copy` would make another like it of."""
        try:
            if (reduce := copyreg.dispatch_table.get(type(value))) is not None:
                reduced = reduce(value)
            else:
                reduced = value.__reduce_ex__(2)
        except TypeError as error:
            raise ValueError(
                f"checkpoint= has to know which fit it is of, and cannot tell "
                f"{value!r} from others of its kind ({error}). Use something that can "
                f"be pickled in its place, or leave checkpoint out."
            ) from error
        if isinstance(reduced, str):
            self._note("named", getattr(value, "__module__", None), reduced)
            return
        made_by, arguments, *more = reduced
        # State, and the items of a list or a dict.
        parts = [list(one) if isinstance(one, Iterator) else one for one in more]
        self._add_all("object", (made_by, arguments, *parts))

    def _add_all(self, kind: str, values: Any) -> None:
        # The number, so that no two nestings look the same.
        values = list(values)
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


def _content_of(cell: CellType) -> Any:
    # It is empty before the function that has it has assigned its variable.
    try:
        return cell.cell_contents
    except ValueError:
        return "empty"


def _is_importable(what: type | FunctionType) -> bool:
    """Say whether an import gets a function or class, which its name then tells."""
    found: Any = sys.modules.get(what.__module__)
    if what.__module__ == "__main__":
        return False
    for name in what.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is what


def _is_installed(module: str) -> bool:
    """Say whether a module is of Python, of this package or of an installed one.

    Others are the user's own, who may change them between two fits; so are packages
    that are installed to be edited.
    """
    if module.partition(".")[0] == PACKAGE:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module in sys.builtin_module_names
    return any(_real(file).is_relative_to(place) for place in _installation_places())


@cache
def _installation_places() -> frozenset[Path]:
    """Return the directories of Python and of the packages that are installed."""
    paths, names = sysconfig.get_paths(), ("stdlib", "platstdlib", "purelib", "platlib")
    places = [paths[name] for name in names]
    found = [*site.getsitepackages(), site.getusersitepackages()]
    # On Windows, the directory of Python is among them, below which users keep code.
    places += [p for p in found if p.endswith(("site-packages", "dist-packages"))]
    return frozenset(map(_real, places))


def _real(path: str) -> Path:
    return Path(os.path.realpath(path))


def _globals_of(function: FunctionType) -> dict[str, Any]:
    """Return the global variables that a function, or one within it, refers to."""
    names, codes = set(), [function.__code__]
    while codes:
        code = codes.pop()
        names |= {*code.co_names}
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
    known = function.__globals__
    return {name: known[name] for name in sorted(names) if name in known}
