"""scikit-learn's own tests of its multilayer perceptrons, run on ours.

Every test runs on each engine; those that take long on a cluster are slow.
"""

import ast
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from unittest.mock import patch

import pytest
import sklearn.neural_network
from threadpoolctl import threadpool_limits

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.cluster.futures import recovery as futures_recovery
from skdistmlp.cluster.peers import recovery
from skdistmlp.engines import futures, local
from skdistmlp.parallel import whole_network
from tests.marks import only_quick

OURS = {
    "MLPClassifier": DistributedMLPClassifier,
    "MLPRegressor": DistributedMLPRegressor,
}

ENGINES = {
    "local": {"engine": "local"},
    "futures": {"engine": "futures", "n_workers": 2},
    "peers": {"engine": "peers", "n_workers": 2},
    "replicas": {"engine": "peers", "n_workers": 2, "n_replicas": 2},
}

LEFT_OUT = {
    "test_gradient": "_loss_grad_lbfgs",
    "test_learning_rate_warmstart": "_optimizer",
    "test_adaptive_learning_rate": "_optimizer",
}
"""Tests that read an attribute without a public face, and the attribute."""

FAST = {
    "test_early_stopping",
    "test_early_stopping_stratified",
    "test_fit",
    "test_minimum_input_sample_size",
    "test_mlp_diverging_loss",
    "test_mlp_vs_poisson_glm_equivalent",
    "test_mlp_warm_start_with_early_stopping",
    "test_partial_fit_classes_error",
    "test_partial_fit_errors",
    "test_partial_fit_unseen_classes",
    "test_preserve_feature_names",
    "test_sparse_matrices",
    "test_tolerance",
    "test_verbose_sgd",
    "test_warm_start_full_iteration",
}
"""Tests that run on a cluster by default."""

NEVER_TRAIN = {"test_partial_fit_errors"}
"""Tests of nothing but parameters and targets that are refused."""

ONE_NEURON = {"test_shuffle", "test_mlp_vs_poisson_glm_equivalent"}
"""Tests of networks that cannot be shared by two workers."""

FEW_ROWS = {
    "test_fit",
    "test_minimum_input_sample_size",
    "test_mlp_loading_from_joblib_partial_fit",
    "test_partial_fit_classes_error",
    "test_partial_fit_unseen_classes",
    "test_shuffle",
}
"""Tests with mini-batches of one row, of which no replica but one would have any."""

SPEC = find_spec("sklearn.neural_network.tests.test_mlp")


def _loaded():
    """Return a fresh copy of scikit-learn's module that imports our classes."""
    module = module_from_spec(SPEC)
    with patch.multiple(sklearn.neural_network, **OURS):
        SPEC.loader.exec_module(module)
    return module


def engines_of(name):
    """Return the engines that run a test."""
    return [e for e in ENGINES if e != "replicas" or name not in FEW_ROWS]


def _on_every_engine(name, test):
    # Each step of futures takes tens of milliseconds.
    quick = (0, 2) if name in FAST else (0,)
    cases = only_quick(*quick, cases=engines_of(name))
    parametrize = pytest.mark.parametrize("engine", cases, indirect=True)
    return pytest.mark.usefixtures("engine")(parametrize(test))


SUITE = _loaded()
globals().update(
    (name, _on_every_engine(name, test))
    for name, test in vars(SUITE).items()
    if name.startswith("test_") and name not in LEFT_OUT
)

pytestmark = pytest.mark.filterwarnings(
    # scikit-learn does not turn warnings into errors.
    "ignore::sklearn.exceptions.ConvergenceWarning"
)


@pytest.fixture
def global_random_seed():
    return 42


@pytest.fixture
def engine(request, monkeypatch):
    """Make an engine the default; afterwards, check that no other was used."""
    for estimator in OURS.values():
        for parameter, default in ENGINES[request.param].items():
            monkeypatch.setitem(estimator.__init__.__kwdefaults__, parameter, default)
    n_workers = _spied_engines(monkeypatch)
    name = request.node.originalname
    if request.param == "local":
        # Threads slow down networks as small as these.
        with threadpool_limits(1):
            yield
        expected = 0
    else:
        with request.getfixturevalue("client").as_current():
            yield
        is_whole = name in ONE_NEURON and request.param != "replicas"
        expected = 1 if is_whole else 2
    if request.param in ("peers", "replicas"):
        # They are about training, so these few predictions run locally.
        n_workers.discard(0)
    assert n_workers == (set() if name in NEVER_TRAIN else {expected})


def _spied_engines(monkeypatch):
    """Return a set that records on how many workers work runs; 0 means locally."""
    n_workers = set()

    def spy(module, name, count):
        original = getattr(module, name)

        def call(*args, **kwargs):
            n_workers.add(count(*args))
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    for module in (futures, futures_recovery):
        spy(module, "open_futures_network", lambda _client, workers, *_: len(workers))
    spy(recovery, "PeersRun", lambda _client, plan, *_: plan.n_workers)
    spy(local, "SingleProcess", lambda *_: 0)
    spy(whole_network, "predict_whole", lambda *_: 0)
    return n_workers


def test_all_tests_are_collected_except_the_excluded_ones(request):
    tree = ast.parse(Path(SPEC.origin).read_text("utf-8"))
    originals = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    }
    assert len(originals) > 40
    assert originals >= {*LEFT_OUT, *FAST, *NEVER_TRAIN, *ONE_NEURON, *FEW_ROWS}
    collected = {
        (item.originalname, item.callspec.params["engine"]): item
        for item in request.node.getparent(pytest.Module).collect()
        if "engine" in item.fixturenames
    }
    remaining = originals - set(LEFT_OUT)
    assert set(collected) == {
        (name, engine) for name in remaining for engine in engines_of(name)
    }
    slow = {key for key, item in collected.items() if item.get_closest_marker("slow")}
    assert slow == {
        *(key for key in collected if key[1] in ("futures", "replicas")),
        *((name, "peers") for name in remaining - FAST),
    }


def test_the_tests_import_only_our_perceptrons():
    in_decorators = [
        value
        for name, test in vars(SUITE).items()
        if name.startswith("test_")
        for mark in getattr(test, "pytestmark", [])
        if mark.name == "parametrize"
        for value in mark.args[1]
    ]
    assert set(OURS.values()) <= {v for v in in_decorators if isinstance(v, type)}
    theirs = [getattr(sklearn.neural_network, name) for name in OURS]
    assert not {*OURS.values()} & {*theirs}
    for value in [*in_decorators, *vars(SUITE).values()]:
        assert not any(value is cls for cls in theirs)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_test_is_excluded_only_for_its_private_attribute(name):
    with pytest.raises(AttributeError, match=f"no attribute '{LEFT_OUT[name]}'"):
        getattr(SUITE, name)()
