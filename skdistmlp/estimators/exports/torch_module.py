"""Rebuild a network in torch, where it predicts and can be trained further.

It consists of torch's own modules, so that whoever loads it does not need skdistmlp.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from skdistmlp.estimators.exports.network import ExportedNetwork
from skdistmlp.nn.activations import Activation

if TYPE_CHECKING:
    from torch import nn

SOFTPLUS_THRESHOLD = 40.0
"""From where torch takes softplus for linear; its default, 20, is wrong by 2e-9."""


def torch_module(
    network: ExportedNetwork, activations: "Mapping[Activation, nn.Module] | None"
) -> "nn.Sequential":
    """Return the network as a module of torch, in evaluation mode.

    Parameters
    ----------
    network : ExportedNetwork
        The network.
    activations : mapping from Activation to Module, or None
        A torch module for each custom activation.

    Returns
    -------
    Sequential
        Its parts are named "network", from features to logits, and "output".

    Raises
    ------
    ImportError
        If torch is not installed.
    ValueError
        If torch does not have an activation.
    """
    try:
        from torch import nn
    except ImportError as error:
        raise ImportError(
            "to_torch needs the package torch, which is not installed: "
            "pip install torch"
        ) from error
    layers: list[nn.Module] = []
    for number, (coef, intercept) in enumerate(
        zip(network.coefs, network.intercepts, strict=True)
    ):
        # Where the rate is 0 there is no module: a network without dropout has none.
        if network.dropout[number] > 0:
            layers.append(nn.Dropout(network.dropout[number]))
        layers.append(_linear(coef, intercept))
        if number < len(network.activations):
            layers.append(_activation(network.activations[number], activations or {}))
    parts = OrderedDict(network=nn.Sequential(*layers), output=_output(network))
    return nn.Sequential(parts).eval()


def _linear(coef: np.ndarray, intercept: np.ndarray) -> "nn.Module":
    import torch

    # Copies: the module shares no memory with the estimator.
    weight, bias = (torch.from_numpy(np.array(a)) for a in (coef.T, intercept))
    linear = torch.nn.utils.skip_init(torch.nn.Linear, *coef.shape, dtype=weight.dtype)
    linear.weight = torch.nn.Parameter(weight.contiguous())
    linear.bias = torch.nn.Parameter(bias)
    return linear


def _activation(
    activation: str | Activation, custom: "Mapping[Activation, nn.Module]"
) -> "nn.Module":
    from torch import nn

    modules: dict[str, Callable[[], nn.Module]] = {
        "identity": nn.Identity,
        "logistic": nn.Sigmoid,
        "tanh": nn.Tanh,
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "selu": nn.SELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "mish": nn.Mish,
        "softplus": lambda: nn.Softplus(threshold=SOFTPLUS_THRESHOLD),
    }
    if isinstance(activation, str) and activation in modules:
        return modules[activation]()
    if not isinstance(activation, str) and activation in custom:
        return deepcopy(custom[activation])
    raise ValueError(
        f"{activation!r} is not known to torch, expected one of "
        f"{', '.join(modules)}. Pass the module that computes the same, as in "
        f"to_torch(activations={{activation: torch.nn.SiLU()}})."
    )


def _output(network: ExportedNetwork) -> "nn.Module":
    """Return the module from logits to what the estimator predicts."""
    import torch
    from torch import fx, nn

    def traced(name: str, function: Any) -> nn.Module:
        # Saved as code, so that loading it needs torch alone. The functions are
        # lambdas, since that code would import the types of annotations.
        module = fx.symbolic_trace(function)
        return fx.GraphModule(module, module.graph, class_name=name)

    outputs: dict[str, Callable[[], Any]] = {
        "softmax": lambda: nn.Softmax(dim=1),
        "logistic": nn.Sigmoid,
        "binary": lambda: traced(
            "TwoProbabilities",
            lambda z: torch.cat([1 - torch.sigmoid(z), torch.sigmoid(z)], dim=1),
        ),
        "identity": nn.Identity,
        "exp": lambda: traced("Exp", lambda z: torch.exp(z)),
        # By logaddexp, since torch's softplus is linear from 20 on.
        "quantiles": lambda: traced(
            "Quantiles",
            lambda z: torch.cat(
                [z[:, :1], torch.logaddexp(z[:, 1:], torch.zeros_like(z[:, 1:]))], dim=1
            ).cumsum(dim=1),
        ),
    }
    name = "binary" if network.is_binary else network.output
    if name not in outputs:
        raise ValueError(
            f"the output activation {name!r} is not known to torch, expected one of "
            f"{', '.join(outputs)}. Export the network by to_onnx()."
        )
    output = outputs[name]()
    if network.classes is None and network.n_outputs == 1:
        # One dimension, as `predict` returns.
        return nn.Sequential(output, nn.Flatten(start_dim=0))
    return output
