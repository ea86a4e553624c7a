"""The hash that names a checkpoint: the same for the same fit, in every process."""

import importlib
import os
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from decimal import Decimal
from functools import partial
from operator import itemgetter
from pathlib import Path
from types import CodeType

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.sparse import csr_array

from skdistmlp import DistributedMLPClassifier
from skdistmlp.checkpoints import fingerprint as fingerprints
from skdistmlp.checkpoints.fingerprint import fingerprint
from skdistmlp.nn.activations import Activation
from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.update_rules import Adam
from skdistmlp.parallel.class_codes import ClassCodes
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.shard import ShardState
from tests.training.jobs import CASES, LAYER_UNITS, dataset_of, job_of, split_among


def with_factor(job, factor):
    progress = job.initial.progress
    schedule = replace(progress.schedule, name="callable", factor=factor)
    progress = replace(progress, schedule=schedule)
    return replace(job, initial=replace(job.initial, progress=progress))


def with_random_state(job, random_state):
    return replace(job, initial=replace(job.initial, random_state=random_state))


def rate_of(scale):
    return lambda done: 1 - done * scale


CHANGES = {
    "nothing": lambda job: job,
    "alpha": lambda job: replace(job, network=replace(job.network, alpha=0.02)),
    "activation": lambda job: replace(
        job, network=Network(dense_layers(LAYER_UNITS, "relu"), "softmax", alpha=0.01)
    ),
    "own activation": lambda job: replace(
        job,
        network=Network(
            dense_layers(LAYER_UNITS, Activation(np.sin, np.cos)), "softmax", 0.01
        ),
    ),
    "dropout": lambda job: replace(
        job, network=Network(dense_layers(LAYER_UNITS, "tanh", 0.1), "softmax", 0.01)
    ),
    "dtype": lambda job: replace(job, dtype=np.dtype(np.float32)),
    "batch size": lambda job: replace(
        job,
        method=replace(job.method, options=replace(job.method.options, batch_size=60)),
    ),
    "rule": lambda job: replace(job, rule=Adam(beta_1=0.8)),
    "ema_decay": lambda job: replace(job, ema_decay=0.9),
    "seed": lambda job: with_random_state(job, np.random.RandomState(1)),
    "schedule": lambda job: with_factor(job, rate_of(1)),
    "another schedule": lambda job: with_factor(job, rate_of(0.5)),
    "parameters": lambda job: replace(
        job, initial=replace(job.initial, network=ShardState(np.zeros(3)))
    ),
    "other parameters": lambda job: replace(
        job, initial=replace(job.initial, network=ShardState(np.ones(3)))
    ),
}


def test_whatever_changes_the_answer_changes_the_fingerprint():
    dataset = dataset_of("adam")
    prints = {
        name: fingerprint(change(job_of("adam")), dataset)
        for name, change in CHANGES.items()
    }
    assert len(set(prints.values())) == len(CHANGES)
    again = {
        name: fingerprint(change(job_of("adam")), dataset)
        for name, change in CHANGES.items()
    }
    assert again == prints


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_training_has_its_own(case):
    others = [one for one in CASES if one != case]
    own = fingerprint(job_of(case), dataset_of(case))
    assert own not in [fingerprint(job_of(one), dataset_of(one)) for one in others]


def test_where_a_fit_runs_and_what_it_prints_does_not_matter():
    job, dataset = job_of("adam"), dataset_of("adam")
    elsewhere = replace(job, split=split_among(3), n_replicas=2, verbose=True)
    assert fingerprint(elsewhere, dataset) == fingerprint(job, dataset)


def test_rows_targets_and_weights_matter():
    job, rng = job_of("adam"), np.random.default_rng(0)
    X, codes = rng.standard_normal((6, 4)), np.array([0, 1, 2, 0, 1, 2], np.uint8)
    y, weight = np.eye(3, dtype=bool)[codes], np.ones(6)
    changed = X.copy()
    changed[3, 2] = np.nextafter(X[3, 2], 1)
    datasets = [
        Dataset(X, y),
        Dataset(changed, y),
        Dataset(X[::-1], y),
        Dataset(X.reshape(4, 6), y),
        Dataset(csr_array(X), y),
        Dataset(X, y[::-1]),
        Dataset(X, ClassCodes(codes, 3)),
        Dataset(X, ClassCodes(codes, 4)),
        Dataset(X, y, weight),
        Dataset(X, y, 2 * weight),
    ]
    assert len({fingerprint(job, dataset) for dataset in datasets}) == len(datasets)
    in_columns = Dataset(np.asfortranarray(X), y)
    assert fingerprint(job, in_columns) == fingerprint(job, datasets[0])


def test_numpy_own_generator_counts_as_itself_wherever_it_is():
    job = with_random_state(job_of("adam"), np.random.mtrand._rand)
    before = fingerprint(job, dataset_of("adam"))
    np.random.mtrand._rand.rand()
    assert fingerprint(job, dataset_of("adam")) == before


def test_a_function_that_refers_to_itself_has_one():
    def factor(done):
        return 1.0 if done > 0.5 else factor(1 - done)

    job = with_factor(job_of("adam"), factor)
    assert fingerprint(job, dataset_of("adam"))


CODE = """
from tests.checkpoints.test_fingerprint import CHANGES, dataset_of, fingerprint, job_of
print(*[fingerprint(change(job_of("early stopping")), dataset_of("adam"))
        for change in CHANGES.values()])
"""


def test_it_is_the_same_in_every_process():
    job, dataset = job_of("early stopping"), dataset_of("adam")
    here = [fingerprint(change(job), dataset) for change in CHANGES.values()]
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "PYTHONHASHSEED": "2"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert len(set(here)) == len(CHANGES)
    assert done.stdout.split() == here


def reading_globals(done):
    return SCALE * done + helper()


def helper():
    return 0.5


SCALE = 0.1


class Rate:
    __slots__ = ("peak",)

    def __init__(self, peak):
        self.peak = peak

    def rate(self, done):
        return self.peak * done


def empty_cell():
    def factor(done):
        return later(done)

    if SCALE > 1:
        later = abs
    return factor


def rate_of_a_notebook(body):
    """Return an instance of a class as a notebook defines it."""
    namespace = {"__name__": "__main__"}
    code = f"class Rate:\n    def __call__(self, done):\n        return {body}\n"
    exec(code, namespace)
    return namespace["Rate"]()


def function_of_a_notebook(scale, helper_body="0.5"):
    """Return a function as a notebook defines it, which refers to others."""
    code = (
        f"scale = {scale}\ndef helper():\n    return {helper_body}\n"
        "def rate(done):\n    return scale * done + helper()\n"
    )
    namespace = {"__name__": "__main__"}
    exec(code, namespace)
    return namespace["rate"]


FUNCTIONS = {
    "methods": lambda: [Rate(0.1).rate, Rate(1.0).rate],
    "splines": lambda: [
        (lambda spline: lambda done: float(spline(done)))(
            PchipInterpolator([0, 0.5, 1], [1, middle, 0.1])
        )
        for middle in (0.5, 0.9)
    ],
    "classes of a notebook": lambda: [rate_of_a_notebook(b) for b in ("done", "1")],
    "globals of a notebook": lambda: [function_of_a_notebook(s) for s in (0.1, 1.0)],
    "helpers of a notebook": lambda: [
        function_of_a_notebook(1, body) for body in ("0.5", "0.6")
    ],
    "getters": lambda: [itemgetter(1), itemgetter(2)],
    "decimals": lambda: [partial(max, Decimal("0.1")), partial(max, Decimal("0.2"))],
    "complex": lambda: [partial(max, 1j), partial(max, 2j)],
    "empty cells": lambda: [empty_cell(), rate_of(1)],
    "functions of a module": lambda: [reading_globals, helper],
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions_are_told_apart_by_what_they_do(kind):
    def prints():
        return [
            fingerprint(with_factor(job_of("adam"), one), dataset_of("adam"))
            for one in FUNCTIONS[kind]()
        ]

    first = prints()
    assert len(set(first)) == 2
    assert prints() == first


def module_with(text, directory):
    """Write a module to a directory, import it afresh, and return its function."""
    code = (
        f"def rate(done):\n    return {text}\n"
        f"class Rate:\n    def __call__(self, done):\n        return {text}\n"
    )
    (directory / "rates_of_a_user.py").write_text(code)
    sys.modules.pop("rates_of_a_user", None)
    importlib.invalidate_caches()
    return importlib.import_module("rates_of_a_user").rate


@pytest.mark.parametrize("of_class", [False, True])
def test_code_of_a_module_of_the_user_matters(tmp_path, monkeypatch, of_class):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = []
    for text in ("done", "1 - done", "done"):
        rate = module_with(text, tmp_path)
        if of_class:
            rate = sys.modules["rates_of_a_user"].Rate()
        job = with_factor(job_of("adam"), rate)
        found.append(fingerprint(job, dataset_of("adam")))
    sys.modules.pop("rates_of_a_user")
    assert found[0] != found[1]
    assert found[0] == found[2]


def test_no_place_of_installed_packages_is_that_of_python_itself():
    """On Windows it is among the site packages, and users keep code below it."""
    places = fingerprints._installation_places()
    assert Path(os.path.realpath(sys.prefix)) not in places


def test_code_of_installed_packages_does_not_matter(tmp_path, monkeypatch):
    """It has another one in each minor version of Python."""
    monkeypatch.syspath_prepend(tmp_path)
    # Otherwise the second would be loaded from the bytecode of the first.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def prints():
        found = set()
        for text in ("done", "1 - done"):
            job = with_factor(job_of("adam"), module_with(text, tmp_path))
            found.add(fingerprint(job, dataset_of("adam")))
        return found

    assert len(prints()) == 2
    places = frozenset([tmp_path])
    monkeypatch.setattr(fingerprints, "_installation_places", lambda: places)
    assert len(prints()) == 1
    sys.modules.pop("rates_of_a_user")


@pytest.mark.parametrize(
    "parameters",
    [
        {"learning_rate": "cosine"},
        {"early_stopping": True},
        {"early_stopping": True, "scoring": "accuracy"},
        {"early_stopping": True, "scoring": "loss"},
        {"solver": "lbfgs"},
    ],
)
def test_no_code_is_part_of_the_fingerprint_of_a_plain_fit(
    parameters, tmp_path, monkeypatch
):
    """Nor of its loss, activations, scores and schedule."""
    added = []
    add = fingerprints._Digest._add

    def noted(self, value):
        added.append(type(value))
        add(self, value)

    monkeypatch.setattr(fingerprints._Digest, "_add", noted)
    X, y = np.random.default_rng(0).random((40, 3)), np.arange(40) % 2
    clf = DistributedMLPClassifier(max_iter=1, checkpoint=tmp_path, **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.fit(X, y)
    assert added
    assert CodeType not in added


def test_booleans_of_numpy_are_booleans():
    def shuffled(value):
        job = job_of("adam")
        options = replace(job.method.options, shuffle=value)
        job = replace(job, method=replace(job.method, options=options))
        return fingerprint(job, dataset_of("adam"))

    assert shuffled(np.True_) == shuffled(True) != shuffled(np.False_)


def test_what_cannot_be_told_from_others_is_refused():
    job = with_factor(job_of("adam"), partial(max, threading.Lock()))
    with pytest.raises(ValueError, match="cannot tell <unlocked") as error:
        fingerprint(job, dataset_of("adam"))
    assert "leave checkpoint out" in str(error.value)
