"""Everything that users import is documented completely, and on the site."""

import inspect
import tomllib
from operator import attrgetter
from pathlib import Path

import pytest
from numpydoc.docscrape import ClassDoc
from numpydoc.validate import validate

import skdistmlp
from skdistmlp import plotting
from skdistmlp.estimators.base import BaseDistributedMLP
from skdistmlp.estimators.fitted_state import FittedStateMixin

ROOT = Path(__file__).parents[1]
NAMES = [
    *skdistmlp.__all__,
    *(f"plotting.{name}" for name in plotting.__all__),
]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
_, *NOT_CHECKED = SETTINGS["tool"]["numpydoc_validation"]["checks"]


def with_methods(name):
    """Yield a class and those of its public methods that are ours."""
    yield name
    for method, value in inspect.getmembers(attrgetter(name)(skdistmlp)):
        ours = str(getattr(value, "__module__", "")).startswith("skdistmlp.")
        if ours and (method == "__call__" or not method.startswith("_")):
            yield f"{name}.{method}"


DESCRIBED = [described for name in NAMES for described in with_methods(name)]


def test_methods_are_collected():
    assert "DistributedMLPRegressor.plan_predict" in DESCRIBED
    assert "FastestWithin.__call__" in DESCRIBED
    assert "plotting.LossCurveDisplay.from_estimator" in DESCRIBED


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_docstring_is_complete(name):
    found = validate(f"skdistmlp.{name}")["errors"]
    assert [error for error in found if error[0] not in NOT_CHECKED] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_on_the_site(name):
    page = (ROOT / "docs" / "api.md").read_text().splitlines()
    entries = [line.removeprefix(".. autoexception::").strip() for line in page]
    entries = [line.removeprefix(".. autoclass::").strip() for line in entries]
    assert name in entries


@pytest.mark.parametrize("cls", BaseDistributedMLP.__subclasses__())
def test_all_fitted_attributes_are_documented(cls):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame({"a": [0.0, 1, 2, 3] * 5, "b": [1.0, 0, 1, 2] * 5})
    est = cls(early_stopping=True, random_state=0).fit(X, [0, 1, 0, 1] * 5)
    names = [*vars(est), *vars(FittedStateMixin)]
    fitted = {name for name in names if name[0] != "_" and name[-1] == "_"}
    assert {name for name, _, _ in ClassDoc(cls)["Attributes"]} == fitted
