"""What users import: parameters, validation and the choice of an engine."""

from skdistmlp.requirements import check_installed

# Before the modules that need them are imported, whose errors would not say why.
check_installed()

from skdistmlp.estimators.classifier import DistributedMLPClassifier
from skdistmlp.estimators.regressor import DistributedMLPRegressor
from skdistmlp.estimators.selection import FastestWithin

__all__ = ["DistributedMLPClassifier", "DistributedMLPRegressor", "FastestWithin"]
