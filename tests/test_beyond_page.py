"""The page "Beyond scikit-learn": its code runs, and it leaves out nothing."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from sklearn.neural_network import MLPClassifier, MLPRegressor

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.update_rules import UPDATE_RULES
from skdistmlp.training.schedules import STEP_SCHEDULES
from tests.estimators.support import quiet

PAGE = (Path(__file__).parents[1] / "docs" / "beyond_scikit_learn.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)

ELSEWHERE = {
    "client",
    "n_workers",
    "n_replicas",
    "parameter_threshold",
    "engine",
    "checkpoint",
}
"""Parameters that other pages explain."""


@pytest.mark.slow
def test_the_code_on_the_page_runs_and_does_what_the_text_says(capsys):
    page = {}
    for block in BLOCKS:
        quiet(exec, block, page)
    curves, inside, equal, *report = capsys.readouterr().out.splitlines()
    best_iter, n_iter, loss = map(float, curves.split())
    assert best_iter < n_iter
    assert loss < 0.15
    pipeline = page["pipeline"]
    rows = pipeline[0].transform(page["raw_val"])
    best = pipeline[-1].best_validation_score_
    assert pipeline[-1].score(rows, page["y_val"]) == best
    assert 0.7 < float(inside) < 0.9
    assert np.all(page["low"] < page["median"])
    assert np.all(page["median"] < page["high"])
    assert equal == "True"
    assert report[2].split()[-1] == "yes"

    def squared(z):
        """Integrand of the mean square of the softsign of a normal variable."""
        return (z / (1 + abs(z))) ** 2 * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

    gain = quad(squared, -np.inf, np.inf)[0] ** -0.5
    assert page["own"].gain == round(gain, 2)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DistributedMLPClassifier, MLPClassifier),
        (DistributedMLPRegressor, MLPRegressor),
    ],
)
def test_the_page_has_every_parameter_that_scikit_learn_lacks(ours, theirs):
    parameters = {*ours().get_params()} - {*theirs().get_params()} - ELSEWHERE
    assert len(parameters) >= 8
    named = {name for name in parameters if re.search(rf"`{name}\b|\b{name}=", PAGE)}
    assert named == parameters


def test_the_page_has_every_new_value():
    values = {*ACTIVATIONS, *UPDATE_RULES, *STEP_SCHEDULES}
    values |= {"absolute_error", "huber", "quantile"}
    values -= {"identity", "logistic", "tanh", "relu", "sgd", "adam"}
    assert not {value for value in values if f'`"{value}"`' not in PAGE}
