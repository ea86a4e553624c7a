"""Loops in one pass over memory, compiled by numba where that is installed.

NumPy needs ten passes for Adam, and its square root is slow: on 0.93 million float32
parameters 1.4 ms against 0.23, on 5.8 million 8.5 against 3.0 (one thread;
``python -m benchmarks optimizer``). Both give the same bits.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

import numpy as np

from skdistmlp.locks import ForkSafeLock

Kernel = Callable[..., None]

UPDATES_BEFORE_LOADING = 1_000_000_000
"""Parameters updated by NumPy before numba is loaded: a process that only trains small
networks never waits for that. Compiled code saves about a nanosecond for each, and to
load it from its cache takes about a second (``python -m benchmarks optimizer``). So it
is loaded when it could have paid: a fit that has got so far usually goes on. To compile
a kernel for the first time takes several seconds."""

LOADED_BYTES = 130_000_000
"""Memory that numba and the code of a kernel take in a process that compiles it; loaded
from numba's cache, they take 121 MB (``python -m benchmarks optimizer``)."""

_LOCK = ForkSafeLock()
_updates = 0
_compiled: dict[Kernel, Kernel | None] = {}
"""What `load` has compiled; None where there is no numba."""

_uncounted: ContextVar[tuple[bool, set[Kernel]] | None] = ContextVar(
    "uncounted", default=None
)
"""Inside `uncounted`, whether a kernel is loaded when it is asked for, and those that
were asked for; None outside."""


def compiled(kernel: Kernel, n_parameters: int) -> Kernel | None:
    """Return a kernel of this module compiled, or None as long as NumPy should do it.

    Parameters
    ----------
    kernel : callable
        A function of this module, such as `adam`.
    n_parameters : int
        Number of parameters that NumPy updates otherwise, or of other numbers that it
        goes through; counted for the whole process, but not inside `uncounted`.
    """
    global _updates
    if (within := _uncounted.get()) is not None:
        loads, asked_for = within
        asked_for.add(kernel)
    if kernel not in _compiled:
        if within is None:
            _updates += n_parameters
            loads = _updates > UPDATES_BEFORE_LOADING
        if loads:
            load(kernel)
    return _compiled.get(kernel)


def bytes_to_load() -> int:
    """Return the memory that compiled code will take here, beyond what it takes now.

    0 once this process has loaded any kernel, or tried to, and without numba.
    """
    if _compiled or find_spec("numba") is None:
        return 0
    return LOADED_BYTES


@contextmanager
def uncounted(*, loads: bool) -> Iterator[set[Kernel]]:
    """Count nothing in this thread while the context lasts: for steps that are timed.

    Otherwise numba might be loaded in the middle of one of them.

    Parameters
    ----------
    loads : bool
        Whether each kernel is loaded when it is asked for; otherwise none is.

    Yields
    ------
    set of Kernel
        Those that this thread asks for, as soon as it does.
    """
    asked_for: set[Kernel] = set()
    token = _uncounted.set((loads, asked_for))
    try:
        yield asked_for
    finally:
        _uncounted.reset(token)


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
    except Exception as error:
        _say_that_it_failed(error)
        return None
    # The cache fails where no folder is writable, or the disk is full.
    for cache in (True, False):
        try:
            fast: Kernel = njit(cache=cache, nogil=True, error_model="numpy")(kernel)
            for dtype in _DTYPES.get(kernel, (np.float32, np.float64)):
                fast(*_EXAMPLES[kernel](dtype))
        except Exception as error:
            failure = error
        else:
            return fast
    _say_that_it_failed(failure)
    return None


def _say_that_it_failed(error: Exception) -> None:
    warnings.warn(
        f"numba cannot compile here: {error!r}. NumPy computes the same, more slowly. "
        f"Repair numba, or uninstall it.",
        stacklevel=2,
    )


# The first arrays of an update rule are the parameters and the gradient, then come the
# moments.
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


def squares(w: Any, gradient: Any, n_coefs: int, penalty: Any, lanes: Any) -> None:
    """Sum squares of the gradient and the penalty's; those of i in lane i % n_lanes."""
    lanes[:] = 0
    for start in range(0, w.size, lanes.size):
        # Slices, because compilers do not vectorise loops over indices that they cannot
        # tell from negative ones.
        w_here, g_here = w[start : start + lanes.size], gradient[start:]
        n_here = max(0, min(n_coefs - start, w_here.size))
        for i in range(n_here):
            g = g_here[i] + penalty * w_here[i]
            lanes[i] += g * g
        for i in range(n_here, w_here.size):
            lanes[i] += g_here[i] * g_here[i]


def dropout_mask(
    drawn: Any,
    threshold: int,
    scale: Any,
    out: Any,
    row: int,
    column: int,
    start: int,
    stop: int,
) -> None:
    """Write, from `row` and `column` of `out`, the mask of drawn columns."""
    dropped = scale - scale
    for i in range(drawn.shape[0]):
        drawn_here = drawn[i, start:stop]
        out_here = out[row + i, column:]
        for j in range(drawn_here.size):
            out_here[j] = scale if drawn_here[j] >= threshold else dropped


CHUNK = 512
"""Numbers that `gelu` takes through all of its loops at a time."""


def gelu(z: Any, out: Any, slope: Any, numbers: Any) -> None:
    """Do what ``gelu.py`` does in float32 with NumPy, in the same order."""
    zero, half, one, limit, of_square, magic, of_t, density = numbers[:8]
    c1, c2, c3, c4, c5, c6 = numbers[8:14]
    q1, q2, q3, q4, q5, q6, q7, q8, q9 = numbers[14:23]
    xs, fs = np.empty(CHUNK, z.dtype), np.empty(CHUNK, z.dtype)
    powers = np.empty(CHUNK, z.dtype)
    rounded = np.empty(CHUNK, z.dtype)
    power_bits, rounded_bits = powers.view(np.int32), rounded.view(np.int32)
    # Short loops: a processor works on several rounds of them at a time, and none reads
    # the bits of what it has just written, which would not be vectorised.
    for start in range(0, z.size, CHUNK):
        z_here, out_here = z[start : start + CHUNK], out[start:]
        slope_here = slope[start:]
        n = z_here.size
        for i in range(n):
            x = abs(z_here[i])
            x = limit if x > limit else x
            exponent = x * x * of_square
            m = exponent + magic
            xs[i] = x
            rounded[i] = m
            fs[i] = exponent - (m - magic)
        for i in range(n):
            f = fs[i]
            p = ((((c6 * f + c5) * f + c4) * f + c3) * f + c2) * f + c1
            powers[i] = p * f + one
        for i in range(n):
            power_bits[i] += rounded_bits[i] << 23
        for i in range(n):
            fs[i] = one / (xs[i] * of_t + one)
        for i in range(n):
            t = fs[i]
            q = (((q9 * t + q8) * t + q7) * t + q6) * t + q5
            rounded[i] = ((((q * t + q4) * t + q3) * t + q2) * t + q1) * t
        for i in range(n):
            tail = rounded[i] * powers[i]
            below = tail - xs[i] * powers[i] * density
            v = z_here[i]
            positive = v if v > zero else zero
            out_here[i] = positive - xs[i] * tail
            # Not into `slope`, which may be `z`: a loop that may read what it
            # overwrites is not vectorised either.
            above = half - below
            fs[i] = half - above if v < zero else half + above
        slope_here[:n] = fs[:n]


def _examples_of_update(n_arrays: int, n_numbers: int) -> Callable[[Any], Any]:
    def examples(dtype: Any) -> Any:
        arrays = [np.ones(1, dtype) for _ in range(n_arrays)]
        return *arrays, 0, *np.ones(n_numbers, dtype)

    return examples


def _examples_of_squares(dtype: Any) -> Any:
    return np.ones(1, dtype), np.ones(1, dtype), 0, dtype(1), np.ones(1, dtype)


def _examples_of_mask(dtype: Any) -> Any:
    drawn, out = np.ones((1, 1), np.uint16), np.ones((1, 1), dtype)
    return drawn, 0, dtype(1), out, 0, 0, 0, 1


def _examples_of_gelu(dtype: Any) -> Any:
    return *(np.ones(1, dtype) for _ in range(3)), np.ones(23, dtype)


_EXAMPLES: dict[Kernel, Callable[[Any], Any]] = {
    adam: _examples_of_update(4, 7),
    rmsprop: _examples_of_update(3, 5),
    nadam: _examples_of_update(4, 7),
    squares: _examples_of_squares,
    dropout_mask: _examples_of_mask,
    gelu: _examples_of_gelu,
}
"""Arguments, by dtype, that a kernel is compiled for."""

_DTYPES: dict[Kernel, tuple[Any, ...]] = {gelu: (np.float32,)}
"""Dtypes that a kernel is compiled for, if not for both."""

KERNELS = tuple(_EXAMPLES)
"""All kernels."""
