"""Packages that are older than this one needs are named when it is imported."""

import os
import re
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest

from skdistmlp import requirements
from skdistmlp.requirements import check_installed, release_numbers

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def import_with(directory, name, version, module):
    """Import a module in a process where a package says that it has a version."""
    about = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    path = os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("name", "version", "module"),
    [
        ("scikit-learn", "1.0.2", "skdistmlp.estimators"),
        ("scipy", "1.9.3", "skdistmlp.estimators"),
        ("distributed", "2024.1.0", "skdistmlp.cluster"),
        ("threadpoolctl", "3.4.0", "skdistmlp.estimators"),
        ("click", "7.1", "skdistmlp.estimators"),
    ],
)
def test_an_older_package_is_named(tmp_path, name, version, module):
    done = import_with(tmp_path, name, version, module)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: skdistmlp needs {name} ")
    assert f" or newer, but version {version} is installed. Upgrade it" in last


@pytest.mark.slow
def test_a_newer_package_is_accepted(tmp_path):
    done = import_with(tmp_path, "scikit-learn", "99.0rc1", "skdistmlp.estimators")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("found", "is_old"),
    [
        ("1.8.2", True),
        ("1.9", False),
        ("1.9.0rc1", False),
        ("1.9.0.dev0+g1", False),
        ("1.10", False),
        ("2", False),
        ("1.9.0", False),
        ("0.24.2.post1", True),
    ],
)
def test_versions_are_compared_as_numbers(monkeypatch, found, is_old):
    monkeypatch.setattr(metadata, "requires", lambda _: ["some>=1.9", "dask[array]"])
    monkeypatch.setattr(metadata, "version", lambda _: found)
    if is_old:
        with pytest.raises(ImportError, match=rf"needs some 1.9 or newer, .*{found}"):
            check_installed.__wrapped__()
    else:
        check_installed.__wrapped__()


def test_without_metadata_nothing_is_checked(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    check_installed.__wrapped__()
    monkeypatch.setattr(requirements.metadata, "requires", missing)
    check_installed.__wrapped__()


def versions(lines, comparison):
    """Return the numbers of the versions that lines name, by package."""
    line = re.compile(rf"(?:!short: )?([\w-]+)(?:\[\w+\])?{comparison}([\d.]+)")
    found = filter(None, map(line.fullmatch, lines))
    # 2.0 and 2.0.0 are the same.
    return {line[1]: re.sub(r"(\.0)+$", "", line[2]) for line in found}


def oldest():
    tox = ConfigParser()
    tox.read(ROOT / "tox.ini")
    return tox["testenv:oldest{,-short}"]


def test_the_oldest_versions_that_are_allowed_are_those_that_are_tried():
    extras = PROJECT["optional-dependencies"]
    allowed = [*PROJECT["dependencies"]]
    for extra in ("tests", "fast", "onnx", "plots"):
        allowed += extras[extra]
    floors = versions(allowed, ">=")
    assert {"numpy", "scipy", "scikit-learn", "dask", "numba"} <= floors.keys()
    assert versions(oldest()["deps"].splitlines(), "==") == floors


def test_the_oldest_python_is_tried():
    python = oldest()["base_python"].removeprefix("python")
    assert PROJECT["requires-python"] == f">={python}"
    assert release_numbers(python) <= sys.version_info


def test_the_classifiers_name_each_python_that_was_run():
    page = (ROOT / "docs" / "install.md").read_text()
    run = set(re.findall(r"^\| (3\.\d+)\.\d+ \|", page, re.M))
    named = " ".join(PROJECT["classifiers"])
    assert run == set(re.findall(r":: Python :: (3\.\d+)\b", named))
    assert len(run) > 1
