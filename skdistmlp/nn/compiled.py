"""Update rules in one pass over memory, compiled by numba where that is installed.

NumPy needs ten passes for Adam, and its square root is slow: on 0.93 million float32
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
_compiled: dict[Kernel, Kernel | None] = {}
"""What `load` has compiled; None where there is no numba."""


def compiled(kernel: Kernel, n_parameters: int) -> Kernel | None:
    """Return a kernel of this module compiled, or None as long as NumPy should do it.

    Parameters
    ----------
    kernel : callable
        `adam`, `rmsprop` or `nadam`.
    n_parameters : int
        Number of parameters that NumPy updates otherwise; counted for the whole
        process.
    """
    global _updates
    if kernel not in _compiled:
        _updates += n_parameters
        if _updates > UPDATES_BEFORE_LOADING:
            load(kernel)
    return _compiled.get(kernel)


def load(kernel: Kernel) -> None:
    """Load numba and compile a kernel now; do nothing without numba."""
    with _LOCK:
        if kernel not in _compiled:
            _compiled[kernel] = _compile(kernel)


def _compile(kernel: Kernel) -> Kernel | None:
    try:
        from numba import njit
    except ImportError:
        # Not installed, or not for this NumPy.
        return None
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        fast: Kernel = njit(cache=True, **options)(kernel)
    except RuntimeError:
        # No folder is writable in which to cache the compiled code.
        fast = njit(**options)(kernel)
    n_arrays, n_numbers = _SIGNATURES[kernel]
    for dtype in (np.float32, np.float64):
        arrays = [np.ones(1, dtype) for _ in range(n_arrays)]
        fast(*arrays, 0, *np.ones(n_numbers, dtype))
    return fast


# The first arrays of each are the parameters and the gradient, then come the moments.
# The first `n_coefs` parameters are coefficients, which carry the penalty and decay;
# numbers have the dtype of the arrays.


def adam(
    w: Any,
    gradient: Any,
    first: Any,
    second: Any,
    n_coefs: int,
    penalty: Any,
    scale: Any,
    decay: Any,
    beta_1: Any,
    beta_2: Any,
    epsilon: Any,
    step: Any,
) -> None:
    """Do what `Adam` and `AdamW` do, and what becomes of the gradient before."""
    for i in range(w.size):
        g = gradient[i] + penalty * w[i] if i < n_coefs else gradient[i]
        g *= scale
        first[i] = beta_1 * first[i] + g
        second[i] = beta_2 * second[i] + g * g
        kept = w[i] * decay if i < n_coefs else w[i]
        w[i] = kept - first[i] / (np.sqrt(second[i]) + epsilon) * step


def rmsprop(
    w: Any,
    gradient: Any,
    second: Any,
    n_coefs: int,
    penalty: Any,
    scale: Any,
    rho: Any,
    epsilon: Any,
    step: Any,
) -> None:
    """Do what `RMSprop` does, and what becomes of the gradient before."""
    for i in range(w.size):
        g = gradient[i] + penalty * w[i] if i < n_coefs else gradient[i]
        g *= scale
        second[i] = rho * second[i] + g * g
        w[i] -= g / (np.sqrt(second[i]) + epsilon) * step


def nadam(
    w: Any,
    gradient: Any,
    first: Any,
    second: Any,
    n_coefs: int,
    penalty: Any,
    scale: Any,
    beta_1: Any,
    beta_2: Any,
    epsilon: Any,
    of_gradient: Any,
    of_first: Any,
) -> None:
    """Do what `NAdam` does, and what becomes of the gradient before."""
    for i in range(w.size):
        g = gradient[i] + penalty * w[i] if i < n_coefs else gradient[i]
        g *= scale
        first[i] = beta_1 * first[i] + g
        second[i] = beta_2 * second[i] + g * g
        direction = g * of_gradient + first[i] * of_first
        w[i] -= direction / (np.sqrt(second[i]) + epsilon)


_SIGNATURES: dict[Kernel, tuple[int, int]] = {
    adam: (4, 7),
    rmsprop: (3, 5),
    nadam: (4, 7),
}
"""Number of the arrays and of the numbers that a kernel takes."""
