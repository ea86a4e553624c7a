"""Check what the parameters say of the network: its layers, activations and dropout."""

import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np

from skdistmlp.nn.activations import ACTIVATIONS, Activation


def checked_hidden_layer_sizes(sizes: Any) -> list[int]:
    """Return the sizes of the hidden layers; raise an error unless they are valid."""
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    if not all(isinstance(size, Integral) for size in sizes):
        raise TypeError(
            f"hidden_layer_sizes has to consist of whole numbers, got {sizes}. "
            f"Convert them, such as by int()."
        )
    if np.any(np.array(sizes) <= 0):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return [int(size) for size in sizes]


def checked_activation(activation: Any) -> Any:
    """Return the activation, or a tuple of one for each hidden layer, once checked.

    Parameters
    ----------
    activation : str, Activation or sequence of these
        The estimator's parameter.

    Raises
    ------
    ValueError
        If a name is unknown, or an activation of the user's own does not what
        `Activation` says.
    TypeError
        If it is something else.
    """
    if isinstance(activation, np.ndarray):
        activation = activation.tolist()
    if isinstance(activation, Sequence) and not isinstance(activation, str):
        return tuple(map(_checked_one, activation))
    return _checked_one(activation)


def _checked_one(activation: Any) -> str | Activation:
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {activation!r} is unknown, expected one of "
                f"{', '.join(ACTIVATIONS)}, or a skdistmlp.Activation."
            )
        return activation
    if not isinstance(activation, Activation):
        raise TypeError(
            f"activation has {activation!r}, expected a name, a skdistmlp.Activation, "
            f"or a sequence with one of these for each hidden layer."
        )
    _check_own(activation)
    return activation


def _check_own(activation: Activation) -> None:
    """Try a user's activation on a few numbers, and try to send it."""
    for name in ("forward", "backward"):
        if not callable(getattr(activation, name)):
            raise TypeError(
                f"{name} of an Activation is {getattr(activation, name)!r}, expected a "
                f"function of two arrays."
            )
    gain = activation.gain
    if isinstance(gain, bool) or not isinstance(gain, Real) or not 0 < gain < np.inf:
        raise ValueError(
            f"the gain of {activation!r} must be a positive number, got {gain!r}."
        )
    # In no order, and on no kink that an activation may have.
    z = 2.3 * np.cos(2 * np.arange(12.0)).reshape(3, 4)
    whole = _applied(activation, z)
    if whole.shape != z.shape or np.isnan(whole).any():
        raise ValueError(
            f"forward of {activation!r} left numbers of `out` unwritten, or wrote NaN, "
            f"for ordinary numbers. Expected: forward(z, out) writes all of `out`."
        )
    # The workers share the columns of a layer, and a batch has any number of rows.
    by_columns = [_applied(activation, z[:, part]) for part in _PARTS]
    by_rows = [_applied(activation, z[part]) for part in _PARTS]
    for parts in (np.hstack(by_columns), np.vstack(by_rows)):
        if not np.allclose(parts, whole):
            raise ValueError(
                f"{activation!r} is not elementwise: it gives other values for some "
                f"numbers of a layer than for all. Workers share the neurons, so each "
                f"activation may depend on its own pre-activation only."
            )
    _check_backward(activation, z, whole)
    check_sendable(activation, repr(activation))


_PARTS = slice(0, 1), slice(1, None)


def _check_backward(activation: Activation, z: np.ndarray, a: np.ndarray) -> None:
    residual = z if activation.keeps_input else a
    before, slope = residual.copy(), np.ones_like(z)
    with _naming("backward", activation):
        returned = activation.backward(residual, slope)
    if not np.array_equal(residual, before):
        raise ValueError(
            f"backward of {activation!r} writes to its first argument. Expected: "
            f"backward(z, delta) multiplies only `delta`, in place."
        )
    if returned is not None and returned is not slope:
        raise ValueError(
            f"backward of {activation!r} returns a value, which is not used. Expected: "
            f"backward(z, delta) multiplies `delta` in place, such as by delta *= ..."
        )
    step = 1e-6
    rise = _applied(activation, z + step) - _applied(activation, z - step)
    if not np.allclose(slope, rise / (2 * step), rtol=1e-3, atol=1e-4):
        # Not refused: a gradient may differ on purpose.
        warnings.warn(
            f"backward of {activation!r} is not the derivative of forward: at "
            f"z={z[0, 0]:.3f} it multiplies by {slope[0, 0]:.5f}, and finite "
            f"differences give {rise[0, 0] / (2 * step):.5f}. Training goes on with "
            f"what backward says.",
            stacklevel=STACKLEVEL,
        )


STACKLEVEL = 9
"""Frames from a warning here to the line that called `fit`."""


def _applied(activation: Activation, z: np.ndarray) -> np.ndarray:
    out = np.full_like(z, np.nan)
    if activation.keeps_input:
        given = z.copy()
        with _naming("forward", activation):
            activation.forward(given, out)
        if not np.array_equal(given, z):
            raise ValueError(
                f"forward of {activation!r} writes to its first argument. Expected: "
                f"forward(z, out) leaves `z` as it is and writes to `out`."
            )
        return out
    np.copyto(out, z)
    with _naming("forward", activation):
        activation.forward(out, out)
    return out


@contextmanager
def _naming(function: str, activation: Activation) -> Iterator[None]:
    """Say whose error it is that a user's function raises."""
    try:
        yield
    except Exception as error:
        error.add_note(
            f"This is {function} of {activation!r}, tried before training on arrays of "
            f"a few numbers."
        )
        raise


def check_sendable(value: Any, name: str) -> None:
    """Raise ValueError if a value of the user's can be neither sent nor saved."""
    try:
        pickle.dumps(value)
        return
    except Exception:
        # Dask's way also takes functions without a name that can be imported.
        import cloudpickle  # type: ignore[import-untyped]
    try:
        cloudpickle.dumps(value)
    except Exception as error:
        raise ValueError(
            f"{name} cannot be sent to workers or saved: {error}. Define its "
            f"functions in a module, or without references to open files, locks or "
            f"connections."
        ) from error


def checked_dropout(dropout: Any) -> float | tuple[float, ...]:
    """Return the dropout rate of the hidden layers, or all rates, once checked.

    Parameters
    ----------
    dropout : float or sequence of float
        The estimator's parameter.

    Raises
    ------
    ValueError
        If a rate is outside [0, 1).
    TypeError
        If a rate is no number.
    """
    if isinstance(dropout, np.ndarray):
        dropout = dropout.tolist()
    several = isinstance(dropout, Sequence) and not isinstance(dropout, str)
    rates = tuple(dropout) if several else (dropout,)
    for rate in rates:
        if isinstance(rate, bool) or not isinstance(rate, Real):
            raise TypeError(
                f"dropout has {rate!r}, expected a number in [0, 1), or a sequence "
                f"with one for the inputs and one for each hidden layer."
            )
        if not 0 <= float(rate) < 1:
            raise ValueError(f"dropout rates must be in the range [0, 1), got {rate}.")
    return tuple(map(float, rates)) if several else float(rates[0])
