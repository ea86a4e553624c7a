"""Check what the parameters say of the network: its layers, activations and dropout."""

import pickle
from collections.abc import Iterable, Sequence
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
    if isinstance(activation, str | Activation) or not isinstance(activation, Iterable):
        return _checked_one(activation)
    return tuple(map(_checked_one, activation))


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
    # In no order, and on no kink that an activation may have.
    z = 2.3 * np.cos(2 * np.arange(12.0)).reshape(3, 4)
    whole = _applied(activation, z)
    if whole.shape != z.shape or np.isnan(whole).any():
        raise ValueError(
            f"forward of {activation!r} left numbers of `out` unwritten, or wrote NaN, "
            f"for ordinary numbers. Expected: forward(z, out) writes all of `out`."
        )
    # The workers share the columns of a layer.
    parts = [_applied(activation, z[:, half]) for half in (slice(0, 1), slice(1, 4))]
    if not np.allclose(np.hstack(parts), whole):
        raise ValueError(
            f"{activation!r} is not elementwise: it gives other values for some "
            f"neurons of a layer than for all. Workers share the neurons, so each "
            f"activation may depend on its own pre-activation only."
        )
    residual = z if activation.keeps_input else whole
    before, delta = residual.copy(), np.ones_like(z)
    activation.backward(residual, delta)
    if not np.array_equal(residual, before):
        raise ValueError(
            f"backward of {activation!r} writes to its first argument. Expected: "
            f"backward(z, delta) multiplies only `delta`, in place."
        )
    if not np.isfinite(activation.gain) or activation.gain <= 0:
        raise ValueError(
            f"the gain of {activation!r} must be a positive number, got "
            f"{activation.gain!r}."
        )
    _check_sendable(activation)


def _applied(activation: Activation, z: np.ndarray) -> np.ndarray:
    out = np.full_like(z, np.nan)
    if activation.keeps_input:
        given = z.copy()
        activation.forward(given, out)
        if not np.array_equal(given, z):
            raise ValueError(
                f"forward of {activation!r} writes to its first argument. Expected: "
                f"forward(z, out) leaves `z` as it is and writes to `out`."
            )
        return out
    np.copyto(out, z)
    activation.forward(out, out)
    return out


def _check_sendable(activation: Activation) -> None:
    try:
        pickle.dumps(activation)
        return
    except Exception:
        # Dask's way also takes functions without a name that can be imported.
        import cloudpickle  # type: ignore[import-untyped]
    try:
        cloudpickle.dumps(activation)
    except Exception as error:
        raise ValueError(
            f"{activation!r} cannot be sent to workers or saved: {error}. Define its "
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
    several = isinstance(dropout, Sequence | np.ndarray)
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
