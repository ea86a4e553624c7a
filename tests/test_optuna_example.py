"""The example that prunes trials with Optuna: what it prints, and what prunes."""

import ast
import re
from pathlib import Path

import optuna
import pytest
from numpy.testing import assert_array_equal

from skdistmlp import DistributedMLPClassifier
from tests.test_project import printed_by_example

EXAMPLE = Path(__file__).parents[1] / "examples" / "optuna_pruning.py"


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.slow
def test_trials_that_fall_behind_are_pruned():
    printed = printed_by_example("optuna_pruning.py")
    line = r"^trial (\d+)  (pruned|complete) +after +(\d+) epochs  score (\S+)$"
    trials = re.findall(line, printed, re.M)
    assert [int(number) for number, *_ in trials] == list(range(10))
    ends = [(ended, int(n), float(score)) for _, ended, n, score in trials]
    complete = [score for ended, _, score in ends if ended == "complete"]
    pruned = [score for ended, _, score in ends if ended == "pruned"]
    assert len(complete) >= 3
    assert len(pruned) >= 2
    assert max(pruned) < max(complete)
    assert all(n < 15 for ended, n, _ in ends if ended == "pruned")
    chosen = int(re.search(r"^chosen    trial (\d+): ", printed, re.M)[1])
    assert ends[chosen] == ("complete", ends[chosen][1], max(complete))
    accuracy = re.search(r"^accuracy  (\S+) on unseen digits$", printed, re.M)[1]
    assert float(accuracy) > 0.93


def class_of_the_example(name):
    """Return a class of the example, without running the rest of it."""
    needed = [
        node
        for node in ast.parse(EXAMPLE.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.ClassDef) and node.name == name)
    ]
    namespace = {}
    exec(compile(ast.Module(needed, []), EXAMPLE, "exec"), namespace)
    return namespace[name]


class Given(optuna.pruners.BasePruner):
    """Prunes a trial after a number of reports."""

    def __init__(self, n_reports):
        self._n_reports = n_reports

    def prune(self, study, trial):
        return len(trial.intermediate_values) >= self._n_reports


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_epochs", [1, 3, 99])
def test_the_callback_reports_each_epoch_and_stops_the_fit(digits, n_epochs):
    pruning_of = class_of_the_example("Pruning")
    study = optuna.create_study(pruner=Given(n_epochs))
    trial = study.ask()
    pruning = pruning_of(trial)
    clf = DistributedMLPClassifier(
        (6,), early_stopping=True, max_iter=4, n_iter_no_change=99, random_state=0
    )
    clf.set_callbacks(pruning).fit(digits[0][:200], digits[1][:200])
    assert clf.n_iter_ == min(n_epochs, 4)
    assert pruning.pruned == (n_epochs <= 4)
    reported = study.trials[0].intermediate_values
    assert list(reported) == list(range(clf.n_iter_))
    assert_array_equal(list(reported.values()), clf.validation_scores_)
