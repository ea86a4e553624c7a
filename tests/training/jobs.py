"""Jobs of training in epochs, with what their engines need."""

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score

from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.update_rules import Adam, Sgd
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.plan import Plan
from skdistmlp.training.hold_out import HoldOut
from skdistmlp.training.job import EpochTraining, LbfgsTraining, TrainingJob
from skdistmlp.training.loop import EpochOptions
from skdistmlp.training.progress import Progress
from skdistmlp.training.schedules import LearningRateSchedule
from skdistmlp.training.scipy_lbfgs import LbfgsOptions
from skdistmlp.training.state import TrainingState

LAYER_UNITS = (64, 9, 8, 10)
N_ROWS = 240
MAX_EPOCHS = 6


def accuracy(y, outputs, sample_weight):
    return accuracy_score(
        y.argmax(axis=1), outputs.argmax(axis=1), sample_weight=sample_weight
    )


HOLD_OUT = HoldOut(0.2, stratify=False, score=accuracy, include_initial=True)

CASES = {
    "adam": {},
    "adam, rows in order": {"shuffle": False},
    "sgd": {"schedule": "constant"},
    "sgd, invscaling": {"schedule": "invscaling"},
    # Each epoch is a stall, so the rate drops again and again.
    "sgd, adaptive": {"schedule": "adaptive", "tol": 10.0, "n_iter_no_change": 1},
    "early stopping": {"hold_out": HOLD_OUT},
    "early stopping, weighted": {"hold_out": HOLD_OUT, "weighted": True},
    "sparse": {"sparse": True},
    "weighted": {"weighted": True},
}
"""Every kind of training in epochs, by name."""


def split_among(n_shards):
    return NetworkSplit.even(LAYER_UNITS, n_shards)


def dataset_of(case):
    options = CASES.get(case, {})
    X, y = load_digits(return_X_y=True)
    X, y = X[:N_ROWS] / 16, np.eye(10, dtype=bool)[y[:N_ROWS]]
    weight = np.linspace(0.5, 2, N_ROWS) if options.get("weighted") else None
    X = csr_array(X) if options.get("sparse") else X
    return Dataset(X, y, weight).prepared(np.dtype(np.float64))


def job_of(case, n_shards=1, state=None):
    """Return a new job; with `state`, one that continues from it."""
    options = dict(CASES[case])
    schedule = options.pop("schedule", None)
    rule = Adam() if schedule is None else Sgd()
    rate = 0.01 if schedule is None else 0.3
    schedule = LearningRateSchedule(schedule or "constant", rate)
    hold_out = options.pop("hold_out", None)
    for name in ("weighted", "sparse"):
        options.pop(name, None)
    fresh = TrainingState(None, np.random.RandomState(0), Progress(schedule, rate))
    return TrainingJob(
        Network(dense_layers(LAYER_UNITS, "tanh"), "softmax", alpha=0.01),
        split_among(n_shards),
        np.dtype(np.float64),
        EpochTraining(EpochOptions(50, MAX_EPOCHS, **options), hold_out),
        state or fresh,
        rule,
    )


def lbfgs_job(n_shards=1):
    """Return a new job of training on all rows at once."""
    return replace(
        job_of("adam", n_shards),
        method=LbfgsTraining(LbfgsOptions(max_iter=5, max_fun=50, tol=1e-6)),
        initial=TrainingState(None, np.random.RandomState(0)),
        rule=None,
    )


def plan_of(engine, workers, n_shards):
    workers = tuple(workers)[:n_shards]
    return Plan(
        engine, split_among(n_shards), workers, "a test asked for it", (0,) * n_shards
    )
