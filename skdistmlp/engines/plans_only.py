"""Engines that do not run: a fit on them ends with its plan."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from skdistmlp.engines.auto import FitOutline
from skdistmlp.engines.choice import ENGINES
from skdistmlp.engines.engine import EngineFactory
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.planning.plan import Plan
from skdistmlp.training.job import TrainingJob


class PlanFound(Exception):  # noqa: N818 (the result, not an error)
    """Ends a fit before it trains.

    Parameters
    ----------
    plan : Plan
        By which it would train.
    outline : FitOutline
        What was planned.
    """

    def __init__(self, plan: Plan, outline: FitOutline) -> None:
        super().__init__()
        self.plan = plan
        self.outline = outline


class PlanOnlyEngine:
    """An `Engine` that gives its plan away instead of training."""

    def __init__(self, plan: Plan, _client: Any) -> None:
        self.plan = plan

    def train(self, job: TrainingJob, dataset: BaseDataset, *_: Any) -> NoReturn:
        """Raise `PlanFound`."""
        raise PlanFound(self.plan, FitOutline.of(job, dataset))

    def predict(self, *_: Any) -> NoReturn:
        """Do nothing: there is nothing to predict with."""
        raise NotImplementedError


PLANS_ONLY: Mapping[str, EngineFactory] = MappingProxyType(
    dict.fromkeys(ENGINES, PlanOnlyEngine)
)
"""In place of the table of engines."""
