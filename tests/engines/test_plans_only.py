"""Engines that end a fit with its plan."""

import pytest

from skdistmlp.engines.choice import ENGINES
from skdistmlp.engines.plans_only import PLANS_ONLY, PlanFound
from skdistmlp.planning.plan import local_plan
from tests.training.jobs import LAYER_UNITS, dataset_of, job_of


def test_every_engine_ends_with_its_plan():
    assert set(PLANS_ONLY) == set(ENGINES)
    plan = local_plan(LAYER_UNITS, "it was asked for")
    engine = PLANS_ONLY["peers"](plan, None)
    with pytest.raises(PlanFound) as found:
        engine.train(job_of("adam"), dataset_of("adam"), None)
    assert found.value.plan is plan
    assert found.value.outline.layer_units == LAYER_UNITS
    with pytest.raises(NotImplementedError):
        engine.predict(None, None, None)
