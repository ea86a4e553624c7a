"""What users import: parameters, validation and the choice of an engine."""

from skdistmlp.estimators.classifier import DistributedMLPClassifier

__all__ = ["DistributedMLPClassifier"]
