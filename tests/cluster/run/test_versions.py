"""Another version of the package or of Python is reported before anything is sent."""

import os
import subprocess
import sys
import sysconfig
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import dask.array as da
import distributed
import numpy as np
import pytest
from distributed import Client

import skdistmlp
from skdistmlp import ClusterError, DistributedMLPClassifier
from skdistmlp.cluster.prediction.by_rows import predict_by_rows
from skdistmlp.cluster.run import versions
from skdistmlp.cluster.run.arithmetic import arithmetic_here
from skdistmlp.cluster.run.versions import MAX_GONE, arithmetic_of, check_versions
from tests.cluster.dask_processes import WITHOUT_PACKAGE
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.support import bounded, wait_until
from tests.marks import only_quick

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def client(processes):
    """A client that has asked no worker for its version yet."""
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as connected:
        remember(connected)
        yield connected
        assert_nothing_left(connected)


VERSION = skdistmlp.__version__


@contextmanager
def installed(client, worker, version):
    """Pretend that a worker has another version, or none; restore it on exit."""
    client.run(install, version, workers=[worker])
    yield
    client.run(install, VERSION, workers=[worker])


def install(version):
    # The version of the loaded package, whatever its files and metadata say.
    skdistmlp.__version__ = version
    sys.modules["skdistmlp"] = None if version is None else skdistmlp


def fit(client, engine):
    clf = DistributedMLPClassifier(
        (9, 8), max_iter=2, client=client, engine=engine, parameter_threshold=0
    )
    return clf.fit(np.eye(20), np.arange(20) % 2)


def fit_collection(client):
    clf = DistributedMLPClassifier((9, 8), max_iter=2, client=client, engine="peers")
    return clf.fit(da.from_array(np.eye(20), chunks=(10, -1)), np.arange(20) % 2)


def predict(client):
    X = np.eye(20)
    workers = tuple(client.nthreads())
    found = predict_by_rows(client, workers, np.negative, X, 5, 1, None)
    assert np.array_equal(found, -X)


CALLS = {
    "peers": partial(fit, engine="peers"),
    "futures": partial(fit, engine="futures"),
    "collection": fit_collection,
    "predict": predict,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("version", "said"),
    only_quick(
        0,
        cases=[
            ("0.0.9", r"runs skdistmlp 0\.0\.9, this process"),
            (None, "has no skdistmlp, this process"),
        ],
    ),
)
def test_another_version_on_a_worker_is_reported(client, call, version, said):
    victim = tuple(client.nthreads())[1]
    with (
        installed(client, victim, version),
        pytest.raises(ClusterError, match=f"worker {victim} {said}"),
    ):
        bounded(call, client)
    bounded(call, client)


def test_another_version_at_a_reused_address_is_reported(processes, client):
    bounded(fit, client, "peers")
    victim = tuple(client.nthreads())[1]
    processes.kill_worker(victim)
    wait_until(lambda: victim not in client.nthreads(), "the worker is missed")
    processes.have_workers(2, port=int(victim.rpartition(":")[2]))
    assert victim in client.nthreads()
    with (
        installed(client, victim, "0.0.9"),
        pytest.raises(ClusterError, match=f"worker {victim} runs skdistmlp 0.0.9"),
    ):
        bounded(fit, client, "peers")
    bounded(fit, client, "peers")


def pretend_python(run, version):
    """Have a process say that it runs another Python; None ends that."""

    # Nested, so that it is pickled by value: the process may lack this package.
    def pretend():
        import platform

        vars(platform).setdefault("real_python_version", platform.python_version)
        platform.python_version = (
            platform.real_python_version if version is None else lambda: version
        )

    run(pretend)


@pytest.mark.slow
def test_pythons_are_compared_before_the_package_is_looked_for(processes, client):
    """On a worker that has none."""
    with processes.unlike_worker(WITHOUT_PACKAGE) as (worker, process):
        run = partial(client.run, workers=[worker])
        for call in CALLS.values():
            pretend_python(run, "3.99.1")
            with pytest.raises(ClusterError, match=f"worker {worker} runs Python 3.99"):
                bounded(call, client)
            pretend_python(run, None)
            with pytest.raises(ClusterError, match=f"worker {worker} has no skdistmlp"):
                bounded(call, client)
        assert process.poll() is None


def test_another_python_on_the_scheduler_is_reported(client):
    pretend_python(client.run_on_scheduler, "3.99.1")
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    said = f"the scheduler runs Python 3.99, this process Python {own}. Use the same"
    with pytest.raises(ClusterError, match=said):
        bounded(predict, client)
    pretend_python(client.run_on_scheduler, None)
    bounded(predict, client)


def pretend_dask(run, version):
    """Have a process say that it runs another Dask."""

    # Nested, as above.
    def pretend():
        import distributed

        distributed.__version__ = version

    run(pretend)


@pytest.mark.parametrize("call", only_quick(*(0, 2), cases=CALLS.values()), ids=CALLS)
def test_a_dask_that_is_too_old_is_reported(client, call):
    own = distributed.__version__
    victim = tuple(client.nthreads())[1]
    runs = {
        f"worker {victim}": partial(client.run, workers=[victim]),
        "the scheduler": client.run_on_scheduler,
    }
    for where, run in runs.items():
        pretend_dask(run, "2025.3.1")
        said = f"{where} runs Dask 2025.3.1, this process Dask {own}, and skdistmlp "
        with pytest.raises(ClusterError, match=said):
            bounded(call, client)
        pretend_dask(run, own)
    bounded(call, client)


@pytest.mark.slow
def test_a_worker_whose_packages_are_too_old_is_named(processes, client, tmp_path):
    with processes.unlike_worker(with_old_dask(tmp_path)) as (worker, process):
        for call in CALLS.values():
            said = (
                rf"worker {worker} cannot import skdistmlp \(skdistmlp needs dask "
                r"\S+ or newer, but version 2024\.1\.0 is installed"
            )
            with pytest.raises(ClusterError, match=said):
                bounded(call, client)
        assert process.poll() is None


def with_old_dask(directory):
    """Return a command of Dask whose metadata say that it is an old version."""
    about = directory / "dask-2024.1.0.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: dask\nVersion: 2024.1.0\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(directory)!r}); "
        "from dask.__main__ import main; main()"
    )
    return [sys.executable, "-c", code]


def another_python():
    """Return a Python of another minor version that this machine has."""
    siblings = Path(sys.base_prefix).parent.glob("3.1[2-9]*/bin/python3")
    for python in [*siblings, *Path("/usr/bin").glob("python3.1[2-9]")]:
        code = f"import sys; print(sys.version_info[:2] != {sys.version_info[:2]})"
        said = subprocess.run([python, "-c", code], capture_output=True, check=False)
        if said.stdout == b"True\n":
            return str(python)
    pytest.skip("this machine has no other Python")


@pytest.mark.slow
def test_a_worker_of_another_python_is_named_and_lives(processes, client, monkeypatch):
    """It runs Dask as it is installed here, of which it can load enough."""
    command = [another_python(), "-W", "ignore", "-m", "dask"]
    installed_here = sysconfig.get_path("purelib")
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), installed_here])
    monkeypatch.setenv("PYTHONPATH", path)
    with processes.unlike_worker(command) as (worker, process):
        for call in CALLS.values():
            with pytest.raises(ClusterError, match=f"worker {worker} runs Python 3"):
                bounded(call, client)
        # It answers: a signal may take a moment to end a process.
        client.run(os.getpid, workers=[worker])
        assert process.poll() is None


def test_a_worker_is_asked_once(client, monkeypatch):
    workers = tuple(client.nthreads())
    asked = []
    ask = versions._ask
    monkeypatch.setattr(
        versions,
        "_ask",
        lambda client, workers, *args: (
            asked.extend(workers) or ask(client, workers, *args)
        ),
    )
    check_versions(client, workers[:1], lambda: None)
    check_versions(client, workers, lambda: None)
    check_versions(client, workers, lambda: None)
    assert sorted(asked) == sorted(2 * workers)


def test_how_a_worker_computes_is_known_from_then_on(processes, client):
    first, second = client.nthreads()
    check_versions(client, [first], lambda: None)
    ((asked, _),) = arithmetic_of(client)
    assert asked == first
    client.run(install_numpy, "2.99", workers=[second])
    check_versions(client, [first, second], lambda: None)
    client.run(install_numpy, np.__version__, workers=[second])
    found = {worker: its for (worker, _), its in arithmetic_of(client).items()}
    assert found[first] == arithmetic_here()
    assert found[second] == found[first]._replace(numpy="2.99")


def test_workers_that_compute_alike_share_what_is_known(client):
    first, second = client.nthreads()
    check_versions(client, [first], lambda: None)
    check_versions(client, [second], lambda: None)
    one, other = arithmetic_of(client).values()
    assert one is other


def test_few_workers_that_have_left_are_remembered(client):
    first, second = client.nthreads()
    check_versions(client, [first], lambda: None)
    known = versions._CHECKED[client]
    left = [(f"tcp://10.0.0.1:{port}", "/tmp") for port in range(2 * MAX_GONE)]
    known.update(dict.fromkeys(left, arithmetic_here()))
    check_versions(client, [first, second], lambda: None)
    remembered = [worker for worker, _ in arithmetic_of(client)]
    gone = [worker for worker, _ in left[-MAX_GONE:]]
    assert remembered == [first, *gone, second]


def install_numpy(version):
    import numpy as loaded

    loaded.__version__ = version
