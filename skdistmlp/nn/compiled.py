"""Adam in one pass over memory, compiled by numba where that is installed.

NumPy needs ten passes, and its square root is slow: on 0.93 million float32
parameters 1.4 ms against 0.23, on 5.8 million 8.5 against 3.0 (one thread;
``python -m benchmarks optimizer``). Both give the same bits.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

Kernel = Callable[..., None]

UPDATES_BEFORE_LOADING = 250_000_000
"""Parameters updated by NumPy before numba is loaded. Loading costs 0.33 s, about what
this many updates could have saved: a small fit never waits for numba, and a large one
loses at most as much again as loading costs anyway."""

_LOCK = threading.Lock()
_updates = 0
_kernel: Kernel | None = None
_looked = False


def adam_kernel(n_parameters: int) -> Kernel | None:
    """Return the compiled update, or None as long as NumPy should do it.

    Parameters
    ----------
    n_parameters : int
        Number of parameters that NumPy updates otherwise; counted for the whole
        process.
    """
    global _updates
    if _kernel is None and not _looked:
        _updates += n_parameters
        if _updates > UPDATES_BEFORE_LOADING:
            load()
    return _kernel


def load() -> None:
    """Load numba and the compiled update now; do nothing without numba."""
    global _kernel, _looked
    with _LOCK:
        if not _looked:
            _kernel = _compiled()
            _looked = True


def _compiled() -> Kernel | None:
    try:
        from numba import njit
    except ImportError:
        # Not installed, or not for this NumPy.
        return None
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        kernel: Kernel = njit(cache=True, **options)(_adam)
    except RuntimeError:
        # No folder is writable in which to cache the compiled code.
        kernel = njit(**options)(_adam)
    for dtype in (np.float32, np.float64):
        arrays = [np.ones(1, dtype) for _ in range(4)]
        kernel(*arrays, 0, *np.ones(5, dtype))
    return kernel


def _adam(
    w: Any,
    gradient: Any,
    first: Any,
    second: Any,
    n_penalised: int,
    penalty: Any,
    beta_1: Any,
    beta_2: Any,
    epsilon: Any,
    step: Any,
) -> None:
    """Do what `L2` around `Adam` does; numbers have the dtype of the arrays."""
    for i in range(w.size):
        g = gradient[i] + penalty * w[i] if i < n_penalised else gradient[i]
        first[i] = beta_1 * first[i] + g
        second[i] = beta_2 * second[i] + g * g
        w[i] -= first[i] / (np.sqrt(second[i]) + epsilon) * step
