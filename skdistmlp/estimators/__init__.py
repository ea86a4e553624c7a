"""What users import: parameters, validation and the choice of an engine."""

from skdistmlp.estimators.classifier import DistributedMLPClassifier
from skdistmlp.estimators.regressor import DistributedMLPRegressor
from skdistmlp.estimators.selection import FastestWithin

__all__ = ["DistributedMLPClassifier", "DistributedMLPRegressor", "FastestWithin"]
