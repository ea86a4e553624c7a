"""What an export needs to know of a fitted network, whatever the format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skdistmlp.nn.activations import Activation
from skdistmlp.nn.types import FloatArray


@dataclass(frozen=True)
class ExportedNetwork:
    """A fitted network, independent of how it was trained.

    Attributes
    ----------
    coefs : sequence of ndarray of shape (fan_in, fan_out)
        Coefficients of each layer.
    intercepts : sequence of ndarray of shape (fan_out,)
        Intercepts of each layer.
    activations : tuple of str or Activation
        Activation of each hidden layer.
    output : str
        Name of the output activation.
    dropout : tuple of float
        Dropout rates of the inputs and of each hidden layer; 0 where there is none.
    classes : ndarray or None
        The classes, in the order of the outputs; None for a regressor.
    is_multilabel : bool
        Whether a sample may have any number of the classes.
    """

    coefs: Sequence[FloatArray]
    intercepts: Sequence[FloatArray]
    activations: tuple[str | Activation, ...]
    output: str
    dropout: tuple[float, ...]
    classes: np.ndarray | None = None
    is_multilabel: bool = False

    @classmethod
    def of(cls, estimator: Any) -> "ExportedNetwork":
        """Return the network of a fitted estimator.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        """
        check_is_fitted(estimator)
        hidden = estimator._fitted_network().layers[:-1]
        binarizer = getattr(estimator, "_label_binarizer", None)
        return cls(
            estimator.coefs_,
            estimator.intercepts_,
            tuple(layer.activation for layer in hidden),
            estimator.out_activation_,
            dropout_rates(getattr(estimator, "dropout", 0.0), len(hidden)),
            getattr(estimator, "classes_", None),
            binarizer is not None and binarizer.y_type_.startswith("multilabel"),
        )

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The dtype of the parameters."""
        return self.coefs[0].dtype

    @property
    def n_features(self) -> int:
        """The number of inputs."""
        return int(self.coefs[0].shape[0])

    @property
    def n_outputs(self) -> int:
        """The number of neurons of the output layer."""
        return int(self.coefs[-1].shape[1])

    @property
    def is_binary(self) -> bool:
        """Whether the only output is the probability of the second of two classes."""
        return self.classes is not None and self.n_outputs == 1


def dropout_rates(dropout: float | Sequence[float], n_hidden: int) -> tuple[float, ...]:
    """Return the rates of the inputs and of each hidden layer.

    Parameters
    ----------
    dropout : float or sequence of float
        One rate for all hidden layers, or the rates of the inputs and each of them.
    n_hidden : int
        Number of hidden layers.
    """
    if np.ndim(dropout) == 0:
        return (0.0, *[float(dropout)] * n_hidden)  # type: ignore[arg-type]
    return tuple(float(rate) for rate in dropout)  # type: ignore[union-attr]


def name_of_activation(activation: str | Activation) -> str:
    """Return how a message names an activation: its own name, or what it is made of."""
    if isinstance(activation, str):
        return repr(activation)
    function = getattr(activation.forward, "__qualname__", repr(activation.forward))
    return f"the custom Activation of {function}"
