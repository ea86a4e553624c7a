"""The hash that names a checkpoint: the same for the same fit, in every process."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

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
    def printed(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.split()

    first = printed("1")
    assert len(set(first)) == len(CHANGES)
    assert printed("2") == first
