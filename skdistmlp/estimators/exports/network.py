"""What an export needs to know of a fitted network, whatever the format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skdistmlp.nn.activations import Activation
from skdistmlp.nn.layers import dense_layers
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.split import layer_units_of


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
        layers = dense_layers(
            layer_units_of(estimator.coefs_), estimator.activation, estimator.dropout
        )
        binarizer = getattr(estimator, "_label_binarizer", None)
        return cls(
            estimator.coefs_,
            estimator.intercepts_,
            tuple(layer.activation for layer in layers[:-1]),
            estimator.out_activation_,
            tuple(layer.dropout for layer in layers),
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
