"""Losses that scikit-learn's networks do not have; see `skdistmlp.nn.losses.Output`."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import xlogy

from skdistmlp.nn.losses import (
    Targets,
    Weights,
    clipped,
    weighted_sum,
)
from skdistmlp.nn.types import FloatArray


@dataclass(frozen=True)
class SmoothedLabels:
    """The log loss of smoothed labels (Szegedy et al., 2016, section 7).

    The target of a class is ``1 - smoothing`` plus its share of `smoothing`, which all
    classes share evenly: for yes-or-no outputs, two.

    Attributes
    ----------
    activation : {"softmax", "logistic"}
        Whether the outputs are classes, or independent.
    smoothing : float
        In [0, 1).
    """

    activation: str
    smoothing: float

    def loss(self, y: Targets, prediction: FloatArray, sample_weight: Weights) -> float:
        """Return the summed loss."""
        p, targets = clipped(prediction), self._targets(y, prediction.dtype)
        loss_by_output = -xlogy(targets, p)
        if self.activation == "logistic":
            loss_by_output -= xlogy(1 - targets, 1 - p)
        return weighted_sum(loss_by_output.sum(axis=1), sample_weight)

    def delta(self, prediction: FloatArray, y: Targets, out: FloatArray) -> None:
        """Write d loss / d logits."""
        np.subtract(prediction, self._targets(y, out.dtype), out=out)

    def _targets(self, y: Targets, dtype: np.dtype[np.floating]) -> FloatArray:
        n_classes = y.shape[1] if self.activation == "softmax" else 2
        targets = y * dtype.type(1 - self.smoothing)
        targets += self.smoothing / n_classes
        return targets


@dataclass(frozen=True)
class AbsoluteError:
    """``sum_k |y_k - z_k|``: the network learns medians."""

    activation: ClassVar[str] = "identity"

    def loss(self, y: Targets, prediction: FloatArray, sample_weight: Weights) -> float:
        """Return the summed loss."""
        return weighted_sum(np.abs(y - prediction).sum(axis=1), sample_weight)

    def delta(self, prediction: FloatArray, y: Targets, out: FloatArray) -> None:
        """Write d loss / d prediction: zero where they are equal."""
        np.subtract(prediction, y, out=out)
        np.sign(out, out=out)


@dataclass(frozen=True)
class Huber:
    """Half the squared error near zero, the absolute error beyond (Huber, 1964).

    ``r^2 / 2`` where ``|r| <= threshold``, else ``threshold (|r| - threshold / 2)``,
    summed over outputs, as torch's ``HuberLoss``.

    Attributes
    ----------
    threshold : float
        Positive.
    """

    threshold: float
    activation: ClassVar[str] = "identity"

    def loss(self, y: Targets, prediction: FloatArray, sample_weight: Weights) -> float:
        """Return the summed loss."""
        residual = np.abs(y - prediction)
        near = np.minimum(residual, self.threshold)
        loss_by_output = near * (residual - near / 2)
        return weighted_sum(loss_by_output.sum(axis=1), sample_weight)

    def delta(self, prediction: FloatArray, y: Targets, out: FloatArray) -> None:
        """Write d loss / d prediction."""
        np.subtract(prediction, y, out=out)
        np.clip(out, -self.threshold, self.threshold, out=out)


@dataclass(frozen=True)
class Pinball:
    """The pinball loss of one or several quantiles (Koenker and Bassett, 1978).

    ``max(q (y - p), (q - 1) (y - p))``, summed over outputs. Several are those of one
    target, and never cross: see `skdistmlp.nn.losses.quantiles`.

    Attributes
    ----------
    levels : tuple of float
        In (0, 1), rising.
    """

    levels: tuple[float, ...]

    @property
    def activation(self) -> str:
        """Whether the outputs rise by construction."""
        return "quantiles" if len(self.levels) > 1 else "identity"

    def loss(self, y: Targets, prediction: FloatArray, sample_weight: Weights) -> float:
        """Return the summed loss."""
        residual = y - prediction
        levels = np.array(self.levels, prediction.dtype)
        loss_by_output = np.maximum(levels * residual, (levels - 1) * residual)
        return weighted_sum(loss_by_output.sum(axis=1), sample_weight)

    def delta(self, prediction: FloatArray, y: Targets, out: FloatArray) -> None:
        """Write d loss / d logits; zero where a prediction equals the target."""
        steps = np.diff(prediction, axis=1)
        residual = prediction - y
        levels = np.array(self.levels, out.dtype)
        np.subtract(residual > 0, levels, out=out)
        out[residual == 0] = 0
        if len(self.levels) == 1:
            return
        # What moves one quantile moves all above it. The derivative of a step, the
        # logistic function of its logit, is 1 - e^-step.
        out[:, ::-1] = np.cumsum(out[:, ::-1], axis=1)
        np.negative(steps, out=steps)
        np.expm1(steps, out=steps)
        out[:, 1:] *= -steps
