"""Plot networks, their training and how long it takes, like scikit-learn's displays."""

from skdistmlp.plotting.crossover import CrossoverDisplay
from skdistmlp.plotting.forecast import ForecastDisplay
from skdistmlp.plotting.loss_curve import LossCurveDisplay
from skdistmlp.plotting.partition import PartitionDisplay
from skdistmlp.plotting.worker_count import WorkerCountDisplay

__all__ = [
    "CrossoverDisplay",
    "ForecastDisplay",
    "LossCurveDisplay",
    "PartitionDisplay",
    "WorkerCountDisplay",
]
