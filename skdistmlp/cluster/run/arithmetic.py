"""What the last bits of a result depend on, besides the number of threads."""

from __future__ import annotations

from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import scipy
from threadpoolctl import ThreadpoolController


class Arithmetic(NamedTuple):
    """How a process computes.

    Attributes
    ----------
    numpy, scipy : str
        Their versions.
    numba : str or None
        Its version; None if it is not installed.
    blas : tuple of str
        NumPy's BLAS: the library, its version, and the kind of CPU that its code is
        for.
    instructions : tuple of str
        Extensions of this CPU that NumPy's own loops use.
    """

    numpy: str
    scipy: str
    numba: str | None
    blas: tuple[str, ...]
    instructions: tuple[str, ...]


def arithmetic_here() -> Arithmetic:
    """Return how this process computes."""
    return Arithmetic(
        np.__version__, scipy.__version__, _numba(), _blas(), _instructions()
    )


def _numba() -> str | None:
    # Not imported: that takes a second, and the process may never use it.
    try:
        return metadata.version("numba")
    except metadata.PackageNotFoundError:
        return None


def _blas() -> tuple[str, ...]:
    loaded: list[dict[str, Any]] = ThreadpoolController().select(user_api="blas").info()
    # SciPy and others bring their own, once they are imported.
    ours = [library for library in loaded if "numpy" in library["filepath"]] or loaded
    facts = ("internal_api", "version", "architecture")
    return tuple(str(library.get(fact)) for library in ours for fact in facts)


def _instructions() -> tuple[str, ...]:
    config: Any = np.show_config(mode="dicts")
    return tuple(config.get("SIMD Extensions", {}).get("found", ()))
