"""Saved estimators are loaded where there is no cluster."""

import io
import pickle
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import skl2onnx
import skops.io as skops
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skdistmlp import DistributedMLPClassifier, FastestWithin
from tests.estimators.configurations import ESTIMATORS, Case, pair
from tests.estimators.support import fit, quiet
from tests.marks import only_quick
from tests.nn.softsign import SOFTSIGN
from tests.sklearn_versions import BEFORE_1_9

PAGE = (Path(__file__).parents[2] / "docs" / "persistence.md").read_text()
PEERS = {"engine": "peers", "n_workers": 2}


DUMP = {
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value)),
    "cloudpickle": lambda value, path: path.write_bytes(cloudpickle.dumps(value)),
    "joblib": joblib.dump,
    "skops": skops.dump,
}

LOAD = {
    "pickle": "import pickle; saved = pickle.load(open('saved', 'rb'))",
    "joblib": "import joblib; saved = joblib.load('saved')",
    "joblib, mapped": "import joblib; saved = joblib.load('saved', mmap_mode='r')",
    "skops": "from skops.io import get_untrusted_types, load\n"
    "saved = load('saved', trusted=get_untrusted_types(file='saved'))",
}

ELSEWHERE = """
import sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "n_workers=2 needs a cluster")
import numpy as np
{load}
pipeline, regressor = saved
given = dict(np.load("given.npz"))
found = dict(
    probability=pipeline.predict_proba(given["X"]),
    number=regressor.predict(given["X"]),
    score=pipeline.score(given["X"], given["y"]),
)
for estimator in (pipeline[-1], regressor):
    assert (estimator.engine_, estimator.n_workers_) == ("peers", 2), estimator.plan_
assert pipeline[-1].client is None
assert regressor.client == str(given["address"])
regressor.set_params(client=None)
regressor.partial_fit(given["X"], given["y"])
assert regressor.engine_ == "local", regressor.plan_
np.savez("found.npz", coef=regressor.coefs_[0], **found)
assert "skdistmlp" in sys.modules
assert "distributed" not in sys.modules
# skops lists all of scikit-learn, which imports every array library there is.
assert "skops" in sys.modules or "dask" not in sys.modules
"""


@pytest.mark.parametrize("how", only_quick(0, cases=LOAD))
@pytest.mark.slow
def test_training_continues_in_a_process_without_a_cluster(
    client, tmp_path, digits, how
):
    X, y = digits[0][:240], digits[1][:240]
    clf, _ = pair({"max_iter": 2}, client=client, **PEERS)
    regressor, _ = pair({"max_iter": 2}, "regressor", **PEERS)
    regressor.set_params(client=client.scheduler.address)
    saved = [make_pipeline(StandardScaler(), clf), regressor]
    for estimator in saved:
        fit(estimator, X, y)
    DUMP[how.split(",")[0]](saved, tmp_path / "saved")
    np.savez(tmp_path / "given.npz", X=X, y=y, address=regressor.client)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE.format(load=LOAD[how])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr

    pipeline, regressor = saved
    found = np.load(tmp_path / "found.npz")
    assert_allclose(found["probability"], pipeline.predict_proba(X), rtol=1e-9)
    assert_allclose(found["number"], regressor.predict(X), rtol=1e-9)
    assert found["score"] == pipeline.score(X, y)
    regressor.partial_fit(X, y)
    assert_allclose(found["coef"], regressor.coefs_[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("how", DUMP)
def test_pickles_contain_nothing_from_dask(client, tmp_path, digits, how):
    clf, _ = pair({"max_iter": 2}, client=client, **PEERS)
    fit(clf, digits[0][:240], digits[1][:240])
    DUMP[how](make_pipeline(StandardScaler(), clf), tmp_path / "saved")
    if how == "skops":
        types = skops.get_untrusted_types(file=tmp_path / "saved")
        assert all(name.startswith("skdistmlp.") for name in types)
    else:
        saved = (tmp_path / "saved").read_bytes()
        assert b"DistributedMLPClassifier" in saved
        assert not re.search(rb"\b(dask|distributed)\b", saved)
    assert clf.client is client


def half(fraction):
    """Return a factor on the learning rate."""
    return 1 - fraction / 2


FITS = {
    "adam": {},
    "sgd": {"solver": "sgd", "learning_rate": "adaptive"},
    "lbfgs": {"solver": "lbfgs"},
    "early stopping": {"early_stopping": True},
    "partial_fit": {},
    "activations and dropout": {
        "activation": ["gelu", "selu"],
        "dropout": [0.1, 0.2, 0.3],
    },
    "adamw, averaged": {"solver": "adamw", "weight_decay": 0.1, "ema_decay": 0.9},
    "rmsprop, clipped": {"solver": "rmsprop", "max_grad_norm": 0.1},
    "nadam, warm-up": {"solver": "nadam", "warmup_steps": 20},
    "a score": {"early_stopping": True, "scoring": "f1_macro"},
    "smoothed labels": {"label_smoothing": 0.1},
    "huber": {"loss": "huber", "huber_delta": 0.5},
    "quantiles": {"loss": "quantile", "quantile": [0.1, 0.9]},
}
REGRESSIONS = {"huber", "quantiles"}
KINDS = [
    (kind, how)
    for kind in ESTIMATORS
    for how in FITS
    if how
    not in (REGRESSIONS if kind == "classifier" else {"smoothed labels", "a score"})
]
"""Estimators, and what they can be fitted with."""

SCHEDULES = {
    "cosine": {"learning_rate": "cosine"},
    "one cycle": {"learning_rate": "one_cycle", "warmup_steps": 2},
    "a function": {"learning_rate": half},
}
"""With these, training continues by `fit` with `warm_start` only."""


def one_of(how, kind="classifier"):
    """Return one of our estimators, with parameters that scikit-learn may lack."""
    parameters = {"max_iter": 2, "random_state": 0, "engine": "local"}
    parameters |= (FITS | SCHEDULES)[how]
    return ESTIMATORS[kind][0](hidden_layer_sizes=(12, 7), **parameters)


@pytest.mark.parametrize(("kind", "how"), KINDS)
def test_a_pickle_names_public_paths_and_plain_data_only(kind, how, digits):
    X, y = digits[0][:100], digits[1][:100]
    estimator = fit(one_of(how, kind), X, y)
    if how == "partial_fit":
        estimator.partial_fit(X, y)
    names = set()

    class Recorder(pickle.Unpickler):
        def find_class(self, module, name):
            names.add((module, name))
            return super().find_class(module, name)

    Recorder(io.BytesIO(pickle.dumps(estimator))).load()
    ours = {(module, name) for module, name in names if "skdistmlp" in module}
    assert {"Plan", "NetworkSplit", type(estimator).__name__} == {n for _, n in ours}
    assert {module for module, _ in ours} == {"skdistmlp"}
    others = {module.partition(".")[0] for module, _ in names - ours}
    assert others <= {"numpy", "sklearn", "builtins", "copyreg"}


@pytest.mark.parametrize("how", [how for how in FITS if how != "lbfgs"])
@pytest.mark.parametrize("save", ["pickle", "joblib", "skops"])
def test_training_continues_to_the_bit(how, save, tmp_path, digits):
    X, y = digits[0][:100], digits[1][:100]
    kind = "regressor" if how in REGRESSIONS else "classifier"
    estimator = fit(one_of(how, kind), X, y).set_params(early_stopping=False)
    path = tmp_path / "saved"
    DUMP[save](estimator, path)
    if save == "skops":
        loaded = skops.load(path, trusted=skops.get_untrusted_types(file=path))
    else:
        loaded = joblib.load(path)  # which reads pickles too
    assert loaded.plan_ == estimator.plan_
    for either in (estimator, loaded):
        for _ in range(2):
            either.partial_fit(X, y)
    assert loaded.loss_curve_ == estimator.loss_curve_
    for mine, known in zip(loaded.coefs_, estimator.coefs_, strict=True):
        assert_array_equal(mine, known)


def test_the_page_lists_the_types_that_skops_has_to_trust(tmp_path, digits):
    needed = set()
    for kind, solver in product(ESTIMATORS, ("adam", "sgd", "lbfgs")):
        estimator, _ = pair({"max_iter": 2, "solver": solver}, kind, engine="local")
        fit(estimator, digits[0][:100], digits[1][:100])
        skops.dump(estimator, tmp_path / "saved")
        needed |= set(skops.get_untrusted_types(file=tmp_path / "saved"))
    (listed,) = re.findall(r"^OURS = (\[.*?^\])", PAGE, re.DOTALL | re.MULTILINE)
    assert needed == set(re.findall(r'"(.+?)"', listed))


@pytest.mark.parametrize("how", SCHEDULES)
@pytest.mark.parametrize("save", ["pickle", "skops"])
def test_a_warm_start_of_a_loaded_estimator_has_its_schedule(
    how, save, tmp_path, digits
):
    X, y = digits[0][:100], digits[1][:100]
    estimator = fit(one_of(how).set_params(warm_start=True), X, y)
    path = tmp_path / "saved"
    DUMP[save](estimator, path)
    if save == "skops":
        types = set(skops.get_untrusted_types(file=path))
        own = {f"{__name__}.half"} if how == "a function" else set()
        assert types == own | {name for name in types if f'"{name}"' in PAGE}
        loaded = skops.load(path, trusted=sorted(types))
    else:
        loaded = joblib.load(path)  # which reads pickles too
    assert loaded.learning_rate == estimator.learning_rate
    assert loaded._schedule == estimator._schedule
    for either in (estimator, loaded):
        fit(either, X, y)
    assert_array_equal(loaded.predict_proba(X), estimator.predict_proba(X))


@pytest.mark.parametrize("save", ["pickle", "joblib", "skops"])
def test_a_custom_activation_is_saved_with_its_functions(save, tmp_path, digits):
    X, y = digits[0][:100], digits[1][:100]
    clf = DistributedMLPClassifier(
        (8, 5), activation=("tanh", SOFTSIGN), max_iter=2, random_state=0
    )
    fit(clf, X, y)
    path = tmp_path / "saved"
    DUMP[save](clf, path)
    if save == "skops":
        types = skops.get_untrusted_types(file=path)
        functions = {name for name in types if name.startswith("tests.nn.softsign.")}
        assert functions == {
            f"tests.nn.softsign.{name}" for name in ("softsign", "softsign_backward")
        }
        assert "skdistmlp.Activation" in types
        assert all(f'"{name}"' in PAGE for name in set(types) - functions)
        loaded = skops.load(path, trusted=types)
    else:
        loaded = joblib.load(path)  # which reads pickles too
    assert loaded.activation == ("tanh", SOFTSIGN)
    for either in (clf, loaded):
        either.partial_fit(X, y)
    assert_array_equal(loaded.predict_proba(X), clf.predict_proba(X))


def test_the_page_names_what_skops_has_to_trust_for_a_data_frame(tmp_path):
    frame = pd.DataFrame({"number": np.arange(20.0), "kind": ["a", "b"] * 10})
    clf = DistributedMLPClassifier(hidden_layer_sizes=(4,), max_iter=2)
    pipeline = make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(), StandardScaler()), ["number"]),
            (OneHotEncoder(), ["kind"]),
        ),
        clf,
    )
    fit(pipeline, frame, np.arange(20) % 2)
    skops.dump(pipeline, tmp_path / "saved")
    types = skops.get_untrusted_types(file=tmp_path / "saved")
    assert "numpy.dtype" in types
    assert all(f'"{name}"' in PAGE for name in types)
    loaded = skops.load(tmp_path / "saved", trusted=types)
    assert_array_equal(loaded.predict(frame), pipeline.predict(frame))


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_page_lists_the_types_that_skops_has_to_trust_for_a_search(
    kind, tmp_path, digits
):
    estimator, _ = pair({"max_iter": 2}, kind, engine="local")
    search = GridSearchCV(estimator, {"alpha": [0.1]}, refit=FastestWithin(), cv=2)
    fit(search, digits[0][:100], digits[1][:100])
    skops.dump(search, tmp_path / "saved")
    types = skops.get_untrusted_types(file=tmp_path / "saved")
    _, after = PAGE.split("\nA search with `refit=FastestWithin()`")
    said, *_ = after.split("\n\n")
    modules, names = zip(
        *(found.rsplit(".", 1) for found in types if f'"{found}"' not in PAGE),
        strict=True,
    )
    assert len(names) == (4 if BEFORE_1_9 else 3)
    assert all(f"`{module}." in said for module in modules)
    assert all(re.search(rf"[.`]{name}`", said) for name in names)
    loaded = skops.load(tmp_path / "saved", trusted=types)
    assert loaded.best_index_ == search.best_index_


def test_only_the_optimizer_of_an_exported_network_needs_trust_in_skops(
    tmp_path, digits
):
    clf, _ = pair({"max_iter": 2}, engine="local")
    X, y = digits[0][:100], digits[1][:100]
    home = fit(clf, X, y).to_sklearn()
    skops.dump(home, tmp_path / "saved")
    types = skops.get_untrusted_types(file=tmp_path / "saved")
    assert types == ["sklearn.neural_network._stochastic_optimizers.AdamOptimizer"]
    assert types[0] in PAGE
    loaded = skops.load(tmp_path / "saved", trusted=types)
    assert_array_equal(loaded.predict_proba(X), clf.predict_proba(X))
    for estimator in (loaded, clf):
        estimator.partial_fit(X, y)
    assert_allclose(loaded.coefs_[0], clf.coefs_[0], rtol=1e-6)


def outputs_of_onnx(estimator, X):
    model = skl2onnx.to_onnx(estimator, X[:1], options=_plain(estimator))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: X})


def _plain(estimator):
    """Request probabilities as one array."""
    return {id(estimator): {"zipmap": False}} if hasattr(estimator, "classes_") else {}


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize(
    "name", ["ten classes", "two strings", "several labels", "no hidden layer"]
)
def test_classifiers_convert_to_onnx(name, activation):
    case = Case.of(name, activation=activation).float32()
    estimator, _ = case.pair(engine="local")
    fit(estimator, case.X, case.y)
    labels, probability = outputs_of_onnx(estimator.to_sklearn(), case.X)
    assert_array_equal(labels, estimator.predict(case.X))
    assert_allclose(probability, estimator.predict_proba(case.X), atol=1e-5)


@pytest.mark.parametrize("name", ["numbers", "numbers in float32", "two columns"])
def test_regressors_convert_to_onnx(name):
    case = Case.of(name).float32()
    estimator, _ = case.pair(engine="local")
    fit(estimator, case.X, case.y)
    (numbers,) = outputs_of_onnx(estimator.to_sklearn(), case.X)
    expected = estimator.predict(case.X)
    assert_allclose(numbers.reshape(expected.shape), expected, atol=1e-4)


def test_the_code_of_the_page_runs(client, tmp_path, monkeypatch, digits):
    """Its code blocks share one namespace, which starts with a client and data."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    X, y = digits
    page = {"client": client, "X": X[:500], "y": y[:500]}
    assert len(blocks) >= 5
    for block in blocks:
        quiet(exec, block, page)
    assert page["clf"].engine_ == "peers"
    assert isinstance(page["again"][-1], DistributedMLPClassifier)
    assert not isinstance(page["home"][-1], DistributedMLPClassifier)
    assert_array_equal(page["labels"], page["pipeline"].predict(page["X"]))
    assert_allclose(
        page["probabilities"], page["pipeline"].predict_proba(page["X"]), rtol=1e-9
    )
