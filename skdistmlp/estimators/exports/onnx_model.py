"""Write a network as an ONNX model, which other runtimes predict with.

The model uses operators of opset 17, which onnxruntime has had since 1.12. Where it
implements an operator for float32 only, a float64 network uses the formula instead.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import erfcx

from skdistmlp._version import __version__
from skdistmlp.estimators.exports.network import ExportedNetwork
from skdistmlp.nn.activations import LEAK, SELU_ALPHA, SELU_SCALE

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 17
"""Version of the operators: of ONNX 1.12, from 2022."""

IR_VERSION = 8
"""Version of the file format that belongs to the opset."""


class _Graph:
    """Nodes and constants of a graph; each value in it has a name."""

    def __init__(self, dtype: np.dtype[np.floating]) -> None:
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, operator: str, *inputs: "str | float", **attributes: Any) -> str:
        """Add a node and return the name of its output; numbers become constants."""
        from onnx.helper import make_node

        output = f"{operator.lower()}_{len(self.nodes)}"
        names = [
            value
            if isinstance(value, str)
            else self.constant(np.asarray(value, self.dtype))
            for value in inputs
        ]
        self.nodes.append(make_node(operator, names, [output], **attributes))
        return output

    def rename(self, value: str, name: str) -> str:
        """Give a value the name of an output of the model."""
        from onnx.helper import make_node

        self.nodes.append(make_node("Identity", [value], [name]))
        return name

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        """Return the name of a constant, the same for small ones that are equal."""
        name = name or f"{value.dtype}_{value.tolist()}"
        self.constants.setdefault(name, value)
        return name


_Writer = Callable[[_Graph, str], str]
"""Adds the nodes of a function of one value, and returns the name of its result."""


def _operator(name: str, **attributes: Any) -> _Writer:
    return lambda graph, z: graph.add(name, z, **attributes)


def _silu(graph: _Graph, z: str) -> str:
    if graph.dtype == np.float32:
        return graph.add("Mul", z, graph.add("Sigmoid", z))
    # onnxruntime 1.20 fuses these two to a QuickGelu, which it has for float32 only.
    power = graph.add("Exp", graph.add("Neg", z))
    return graph.add("Div", z, graph.add("Add", power, 1))


def _mish(graph: _Graph, z: str) -> str:
    return graph.add("Mul", z, graph.add("Tanh", _softplus(graph, z)))


def _softplus(graph: _Graph, z: str) -> str:
    """``log(1 + exp(z))``, without overflow."""
    if graph.dtype == np.float32:
        return graph.add("Softplus", z)
    small = graph.add("Exp", graph.add("Neg", graph.add("Abs", z)))
    logarithm = graph.add("Log", graph.add("Add", small, 1))
    return graph.add("Add", graph.add("Max", z, 0), logarithm)


def _leaky_relu(graph: _Graph, z: str) -> str:
    # The attribute of the operator LeakyRelu is a float32, in float64 networks too.
    return graph.add("Max", z, graph.add("Mul", z, LEAK))


def _elu(graph: _Graph, z: str) -> str:
    if graph.dtype == np.float32:
        return graph.add("Elu", z, alpha=1.0)
    return _exponential_unit(graph, z, 1.0, 1.0)


def _selu(graph: _Graph, z: str) -> str:
    if graph.dtype == np.float32:
        return graph.add("Selu", z, alpha=SELU_ALPHA, gamma=SELU_SCALE)
    return _exponential_unit(graph, z, SELU_SCALE, SELU_SCALE * SELU_ALPHA)


def _exponential_unit(graph: _Graph, z: str, above: float, below: float) -> str:
    """``above * z`` where z is positive, else ``below * (exp(z) - 1)``."""
    minus_one = graph.add("Sub", graph.add("Exp", graph.add("Min", z, 0)), 1)
    positive = graph.add("Mul", graph.add("Max", z, 0), above)
    return graph.add("Add", positive, graph.add("Mul", minus_one, below))


def _gelu(graph: _Graph, z: str) -> str:
    """``z`` times the normal distribution function of `z`."""
    if graph.dtype == np.float32:
        erf = graph.add("Erf", graph.add("Mul", z, np.sqrt(0.5)))
        twice = graph.add("Mul", z, graph.add("Add", erf, 1))
        return graph.add("Mul", twice, 0.5)
    return graph.add("Mul", z, _normal_distribution(graph, z))


ERFCX_DEGREE = 24
"""The error of the polynomial for `erfcx` is then that of float64."""

ERFCX_POINTS = 100
"""Points to interpolate at: more than coefficients, to average rounding errors out."""


def _erfcx_polynomial() -> Polynomial:
    """Return ``erfcx(x)``, x >= 0, as a polynomial in ``s = 4 / (2 + x) - 1``.

    Notes
    -----
    The substitution of Press et al., Numerical Recipes, 3rd edition, section 6.2.2: it
    maps all x to (-1, 1], where the function is smooth.
    """

    def of_s(s: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return erfcx(4 / (s + 1) - 2)

    series = Chebyshev.interpolate(of_s, ERFCX_POINTS).truncate(ERFCX_DEGREE + 1)
    return series.convert(kind=Polynomial)


def _normal_distribution(graph: _Graph, z: str) -> str:
    """Add the normal distribution function in float64, which has no Erf."""
    x = graph.add("Mul", graph.add("Abs", z), np.sqrt(0.5))
    s = graph.add("Sub", graph.add("Div", 4, graph.add("Add", x, 2)), 1)
    *others, highest = _erfcx_polynomial().coef
    value: str | float = float(highest)
    for coefficient in reversed(others):
        value = graph.add("Add", graph.add("Mul", value, s), float(coefficient))
    bell = graph.add("Exp", graph.add("Neg", graph.add("Mul", x, x)))
    tail = graph.add("Mul", graph.add("Mul", bell, value), 0.5)
    is_negative = graph.add("Less", z, 0)
    return graph.add("Where", is_negative, tail, graph.add("Sub", 1, tail))


_ACTIVATIONS: Mapping[str, _Writer] = MappingProxyType(
    {
        "identity": lambda _, z: z,
        "logistic": _operator("Sigmoid"),
        "tanh": _operator("Tanh"),
        "relu": _operator("Relu"),
        "leaky_relu": _leaky_relu,
        "elu": _elu,
        "selu": _selu,
        "gelu": _gelu,
        "silu": _silu,
        "mish": _mish,
        "softplus": _softplus,
    }
)


def _quantiles(graph: _Graph, z: str) -> str:
    """Turn logits into quantiles: each adds its softplus to the one before."""

    def columns(start: int, stop: int) -> str:
        bounds = (np.array([number]) for number in (start, stop, 1))
        first, last, axis = (graph.constant(bound) for bound in bounds)
        return graph.add("Slice", z, first, last, axis)

    steps = _softplus(graph, columns(1, np.iinfo(np.int64).max))
    values = graph.add("Concat", columns(0, 1), steps, axis=1)
    return graph.add("CumSum", values, graph.constant(np.array(1)))


_OUTPUTS: Mapping[str, _Writer] = MappingProxyType(
    {
        "softmax": _operator("Softmax", axis=1),
        "logistic": _operator("Sigmoid"),
        "identity": lambda _, z: z,
        "exp": _operator("Exp"),
        "quantiles": _quantiles,
    }
)


def onnx_model(network: ExportedNetwork) -> "ModelProto":
    """Return the network as an ONNX model.

    Parameters
    ----------
    network : ExportedNetwork
        The network.

    Returns
    -------
    ModelProto
        Its input is named "X". Its outputs are "label" and "probabilities" for classes,
        else "variable".

    Raises
    ------
    ImportError
        If onnx is not installed.
    ValueError
        If an activation or the classes cannot be written.
    """
    try:
        from onnx import checker, helper, numpy_helper
    except ImportError as error:
        raise ImportError(
            "to_onnx needs the package onnx, which is not installed: pip install onnx"
        ) from error
    graph = _Graph(network.dtype)
    value = _write_layers(graph, network)
    value = _writer(_OUTPUTS, network.output, "output activation")(graph, value)
    element = helper.np_dtype_to_tensor_dtype(network.dtype)
    if network.classes is None:
        outputs = [_write_numbers(graph, network, value, element)]
    else:
        outputs = _write_classes(graph, network, value, element)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "skdistmlp",
            [helper.make_tensor_value_info("X", element, [None, network.n_features])],
            outputs,
            [
                numpy_helper.from_array(constant, name)
                for name, constant in graph.constants.items()
            ],
        ),
        producer_name="skdistmlp",
        producer_version=__version__,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    checker.check_model(model)
    return model


def _write_layers(graph: _Graph, network: ExportedNetwork) -> str:
    """Add the nodes from the inputs to the logits, whose name is returned."""
    value = "X"
    layers = zip(network.coefs, network.intercepts, strict=True)
    for number, (coef, intercept) in enumerate(layers):
        value = graph.add(
            "Gemm",
            value,
            graph.constant(np.ascontiguousarray(coef), f"coefs_{number}"),
            graph.constant(np.ascontiguousarray(intercept), f"intercepts_{number}"),
        )
        if number < len(network.activations):
            activation = network.activations[number]
            value = _writer(_ACTIVATIONS, activation, "activation")(graph, value)
    return value


def _writer(writers: Mapping[str, _Writer], name: Any, kind: str) -> _Writer:
    if isinstance(name, str) and name in writers:
        return writers[name]
    raise ValueError(
        f"{name!r} cannot be written as ONNX, expected as {kind} one "
        f"of {', '.join(writers)}. Use one of them, or export by to_torch()."
    )


def _write_numbers(
    graph: _Graph, network: ExportedNetwork, value: str, element: int
) -> Any:
    """Add the output of a regressor; return its description."""
    from onnx.helper import make_tensor_value_info

    shape: list[int | None] = [None, network.n_outputs]
    if network.n_outputs == 1:
        # One dimension, as `predict` returns.
        value = graph.add("Squeeze", value, graph.constant(np.array([1])))
        shape = [None]
    return make_tensor_value_info(graph.rename(value, "variable"), element, shape)


def _write_classes(
    graph: _Graph, network: ExportedNetwork, probability: str, element: int
) -> list[Any]:
    """Add the outputs of a classifier, label and probabilities; describe them."""
    from onnx import TensorProto
    from onnx.helper import make_tensor_value_info, np_dtype_to_tensor_dtype

    n_columns = network.n_outputs
    label_shape: list[int | None] = [None]
    label_element: int = TensorProto.INT64
    if network.is_multilabel or network.is_binary:
        above = graph.add("Greater", probability, 0.5)
        label = graph.add("Cast", above, to=TensorProto.INT64)
    else:
        label = graph.add("ArgMax", probability, axis=1, keepdims=0)
    if network.is_multilabel:
        label_shape = [None, n_columns]
    else:
        if network.is_binary:
            n_columns = 2
            label = graph.add("Squeeze", label, graph.constant(np.array([1])))
            other = graph.add("Sub", 1, probability)
            probability = graph.add("Concat", other, probability, axis=1)
        classes = _class_tensor(network)
        label = graph.add("Gather", graph.constant(classes, "classes"), label)
        label_element = (
            TensorProto.STRING
            if classes.dtype == object
            else np_dtype_to_tensor_dtype(classes.dtype)
        )
    return [
        make_tensor_value_info(
            graph.rename(label, "label"), label_element, label_shape
        ),
        make_tensor_value_info(
            graph.rename(probability, "probabilities"), element, [None, n_columns]
        ),
    ]


def _class_tensor(network: ExportedNetwork) -> np.ndarray:
    """Return the classes in a dtype that ONNX knows, two even if there is but one."""
    classes = np.asarray(network.classes)
    if len(classes) == 1:
        classes = np.repeat(classes, 2)
    if classes.dtype.kind in "iu":
        return classes.astype(np.int64)
    if classes.dtype.kind in "bf":
        return classes
    if all(isinstance(name, str) for name in classes.tolist()):
        return classes.astype(object)
    raise ValueError(
        f"classes of dtype {classes.dtype} cannot be written as ONNX: {classes}. "
        f"Expected numbers, booleans or strings. Train with y converted to them."
    )
