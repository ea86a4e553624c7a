"""What importing the package provides, and what it does not load."""

import importlib
import json
import pickle
import pkgutil
import subprocess
import sys
from importlib import metadata, resources

import pytest

import skdistmlp
from skdistmlp.parallel.communicators import StopRequested

MODULES = [
    module.name for module in pkgutil.walk_packages(skdistmlp.__path__, "skdistmlp.")
]

LOADED = """
import json, sys
print(json.dumps(list(sys.modules)))
"""

FIT = """
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
X, y = np.eye(40), np.arange(40) % 2
clf = skdistmlp.DistributedMLPClassifier(
    (200, 300), tol=10, n_iter_no_change=1, **PARAMS
)
clf = make_pipeline(StandardScaler(), clf).fit(X, y)[-1]
clf.partial_fit(X, y).predict(X)
assert clf.engine_ == "local", clf.plan_
"""


def loaded_by(code: str) -> set[str]:
    """Return the names of the modules that a fresh process has after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{LOADED}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "code",
    [
        # The others import it too.
        pytest.param("from skdistmlp import *", id="import", marks=pytest.mark.slow),
        pytest.param(
            "import skdistmlp" + FIT.replace("**PARAMS", ""),
            id="fit without a cluster",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "import skdistmlp"
            + FIT.replace("**PARAMS", "client='tcp://192.0.2.1:1', engine='local'"),
            id="engine='local'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "import skdistmlp"
            + FIT.replace(
                "**PARAMS", "client='tcp://192.0.2.1:1', parameter_threshold=10**6"
            ),
            id="below the threshold",
        ),
    ],
)
def test_dask_is_not_imported_before_a_cluster_is_used(code):
    loaded = loaded_by(code)
    assert "skdistmlp.estimators" in loaded
    assert not loaded & {"dask", "distributed"}


DASK_HELP = """
import contextlib, runpy, sys
sys.argv = ["dask", "--help"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
    runpy.run_module("dask", run_name="__main__")
"""


def test_the_command_loads_nothing_heavy_for_other_commands_of_dask():
    ours = {name for name in loaded_by(DASK_HELP) if name.startswith("skdistmlp")}
    assert ours == {
        "skdistmlp",
        "skdistmlp._version",
        "skdistmlp.cli",
        "skdistmlp.cli.checkpoint_command",
        "skdistmlp.cli.connection",
        "skdistmlp.cli.crossover_command",
        "skdistmlp.cli.plan_command",
        "skdistmlp.exceptions",
        "skdistmlp.settings",
    }
    # Dask itself brings some of these.
    heavy = {"dask", "distributed", "numpy", "scipy", "sklearn"}
    assert not heavy & loaded_by("import skdistmlp.cli")


NAMES = f"""
import pickle
import skdistmlp
missing = set(skdistmlp.__all__) - set(dir(skdistmlp))
assert not missing, missing
assert skdistmlp.estimators.DistributedMLPClassifier.__name__ in dir(skdistmlp)
try:
    skdistmlp.DistributedMLPTransformer
except AttributeError as error:
    assert "no attribute 'DistributedMLPTransformer'" in str(error), error
else:
    raise AssertionError("a name that nobody has")
from skdistmlp import *
here = pickle.loads({pickle.dumps(skdistmlp.DistributedMLPRegressor())!r})
assert type(here) is DistributedMLPRegressor is skdistmlp.DistributedMLPRegressor
for name in skdistmlp.__all__:
    assert globals()[name].__name__ == name
"""


def test_the_names_of_the_package_are_its_public_ones():
    shown = {name for name in dir(skdistmlp) if not name.startswith("_")}
    assert shown == {*skdistmlp.__all__, "estimators", "plotting"}


def test_displays_need_no_import_of_their_own():
    code = "import skdistmlp; skdistmlp.plotting.WorkerCountDisplay"
    loaded = loaded_by(code)
    assert "skdistmlp.plotting" in loaded
    assert "matplotlib" not in loaded


@pytest.mark.parametrize("name", ["Plan", "NetworkSplit", "FastestWithin", "Forecast"])
def test_classes_say_where_users_find_them(name):
    assert repr(getattr(skdistmlp, name)) == f"<class 'skdistmlp.{name}'>"


def test_lazily_imported_names_behave_like_others():
    assert "sklearn" in loaded_by(NAMES)


def test_the_cluster_package_imports_dask_but_not_its_arrays():
    loaded = loaded_by("import skdistmlp.cluster.peers.worker")
    assert {"dask", "distributed"} <= loaded
    # It takes half a second, which rows of NumPy do not need.
    assert "dask.array" not in loaded


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported(name):
    assert importlib.import_module(name).__doc__


def test_every_room_is_among_the_modules():
    rooms = "cli plotting crossover parity estimators engines cluster planning"
    rooms += " checkpoints training wire parallel nn settings exceptions"
    assert {f"skdistmlp.{room}" for room in rooms.split()} <= set(MODULES)


def test_public_names():
    assert set(skdistmlp.__all__) == {
        "Activation",
        "CheckpointError",
        "ClusterError",
        "DistributedMLPClassifier",
        "DistributedMLPRegressor",
        "ExchangeError",
        "FastestWithin",
        "Forecast",
        "NetworkSplit",
        "ParityReport",
        "ParityRow",
        "Plan",
        "Recovery",
        "SkdistmlpError",
        "WorkerLostError",
        "check_parity",
    }
    assert all(getattr(skdistmlp, name).__doc__ for name in skdistmlp.__all__)


def test_errors_have_a_common_base():
    errors = [getattr(skdistmlp, name) for name in skdistmlp.__all__ if "Err" in name]
    assert len(errors) == 5
    assert all(issubclass(error, skdistmlp.SkdistmlpError) for error in errors)


def test_what_goes_wrong_on_a_cluster_is_a_cluster_error():
    for error in (skdistmlp.WorkerLostError, skdistmlp.ExchangeError):
        assert issubclass(error, skdistmlp.ClusterError)


def test_the_signal_to_stop_is_not_an_error_of_the_package():
    assert not issubclass(StopRequested, skdistmlp.SkdistmlpError)
    assert not hasattr(skdistmlp.exceptions, "StopRequested")


def test_the_version_is_that_of_the_distribution():
    assert skdistmlp.__version__ == metadata.version("skdistmlp")


def test_the_package_is_marked_as_typed():
    assert resources.files(skdistmlp).joinpath("py.typed").is_file()
