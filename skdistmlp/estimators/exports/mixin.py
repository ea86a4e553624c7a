"""The methods that export a fitted estimator to ONNX and to torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from skdistmlp.estimators.exports.network import ExportedNetwork
from skdistmlp.estimators.exports.onnx_model import onnx_model
from skdistmlp.estimators.exports.torch_module import torch_module
from skdistmlp.nn.activations import Activation

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn


class ExportMixin:
    """Export a fitted network to other libraries."""

    def to_onnx(self) -> "ModelProto":
        """Export the network as an ONNX model, which makes the same predictions.

        It needs the package ``onnx``. The model runs in onnxruntime and in other
        runtimes that support opset 17, without skdistmlp and without Python.

        Returns
        -------
        onnx.ModelProto
            Its input "X" has shape (n_samples, n_features) and the dtype of
            `coefs_`. A classifier has two outputs: "label" is what `predict` returns,
            "probabilities" what `predict_proba` returns. A regressor has one,
            "variable": what `predict` returns. ``model.SerializeToString()`` is what a
            file contains.

        Raises
        ------
        NotFittedError
            If this estimator is not fitted.
        ImportError
            If onnx is not installed.
        ValueError
            If `activation` is a custom `Activation`, of which ONNX knows nothing, or if
            the classes are neither numbers nor booleans nor strings.
        """
        return onnx_model(ExportedNetwork.of(self))

    def to_torch(
        self, activations: "Mapping[Activation, nn.Module] | None" = None
    ) -> "nn.Sequential":
        """Export the network as a torch module, which makes the same predictions.

        It needs the package ``torch``. The module consists of torch's own modules:
        saved with ``torch.save``, it can be loaded without skdistmlp.

        Parameters
        ----------
        activations : mapping from Activation to torch.nn.Module, default=None
            For each custom `Activation` of this estimator, a module that computes
            the same.

        Returns
        -------
        torch.nn.Sequential
            In evaluation mode, with parameters of the dtype of `coefs_`. It returns
            what `predict_proba` returns or, of a regressor, what `predict` returns. Its
            part ``network`` returns the logits, for torch's losses, and has a
            ``Dropout`` wherever this estimator has dropout: to train further, call
            ``train()``. Its part ``output`` is the output activation.

        Raises
        ------
        NotFittedError
            If this estimator is not fitted.
        ImportError
            If torch is not installed.
        ValueError
            If `activation` has a custom `Activation` that `activations` lacks.
        """
        return torch_module(ExportedNetwork.of(self), activations)
