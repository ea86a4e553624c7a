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

    def __init__(self, plan: Plan, client: Any) -> None:
        self.plan = plan
        self._client = client

    def train(self, job: TrainingJob, dataset: BaseDataset, *_: Any) -> NoReturn:
        """Raise `PlanFound`, or what a fit would if workers have no room for it.

        Raises
        ------
        ClusterError
            If a worker would hold more than its memory limit.
        """
        if self.plan.workers:
            _check_memory(self.plan, self._client)
        raise PlanFound(self.plan, FitOutline.of(job, dataset))

    def predict(self, *_: Any) -> NoReturn:
        """Do nothing: there is nothing to predict with."""
        raise NotImplementedError


def _check_memory(plan: Plan, client: Any) -> None:
    """Raise if the workers of a plan have no room for it."""
    from skdistmlp.cluster.futures import tasks
    from skdistmlp.cluster.peers import worker
    from skdistmlp.cluster.run.free_memory import check_memory_limits
    from skdistmlp.cluster.run.placement import Placement
    from skdistmlp.cluster.run.reservation import unclaimed_workers

    module = tasks if plan.engine == "futures" else worker
    if plan.engine != "futures":
        check_memory_limits(client, plan)
        if {*unclaimed_workers(client, plan.workers)} != {*plan.workers}:
            # A fit would wait for those that hold them, and they free their memory.
            return
    with Placement(client, plan.workers) as placement:
        placement.check_memory(plan, module.__name__)


PLANS_ONLY: Mapping[str, EngineFactory] = MappingProxyType(
    dict.fromkeys(ENGINES, PlanOnlyEngine)
)
"""In place of the table of engines."""
