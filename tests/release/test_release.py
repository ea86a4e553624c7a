"""The files in `dist/` and what they install; `tox -e release` builds them first.

This module runs in an environment without the package and what it requires.
"""

import os
import re
import subprocess
import tarfile
import tomllib
import venv
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

pytestmark = pytest.mark.release

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "skdistmlp/_version.py").read_text(), re.M
)[1]
ABOUT = f"skdistmlp-{VERSION}.dist-info"
COMMANDS = ("checkpoint", "crossover", "plan")


@pytest.fixture(scope="module")
def wheel():
    """Return the files of the wheel, by name."""
    with ZipFile(ROOT / f"dist/skdistmlp-{VERSION}-py3-none-any.whl") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sdist():
    """Return the files of the sdist, by name."""
    top = f"skdistmlp-{VERSION}/"
    with tarfile.open(ROOT / f"dist/skdistmlp-{VERSION}.tar.gz") as archive:
        assert all(member.name.startswith(top) for member in archive)
        return {
            member.name.removeprefix(top): archive.extractfile(member).read()
            for member in archive
            if not member.isdir()
        }


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def metadata(request):
    """Return what an index and pip read; fields that are invalid are an error."""
    name = {"wheel": f"{ABOUT}/METADATA", "sdist": "PKG-INFO"}[request.param]
    return Metadata.from_email(request.getfixturevalue(request.param)[name])


class Environment:
    """A new virtual environment with the wheel and nothing but what it requires."""

    def __init__(self, folder):
        self.folder = folder
        self.site = folder / "venv"
        venv.create(self.site, with_pip=True)
        wheel = ROOT / f"dist/skdistmlp-{VERSION}-py3-none-any.whl"
        self.run("python", "-m", "pip", "install", "--quiet", wheel)

    def run(self, command, *arguments):
        """Run a command of the environment outside the checkout; return its output."""
        environment = {**os.environ, "PATH": f"{self.site / 'bin'}:{os.defpath}"}
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            environment.pop(name, None)
        done = subprocess.run(
            [self.site / "bin" / command, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("release"))


def in_git(*folders):
    command = ["git", "ls-files", "-z", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return set(listed.stdout.decode().split("\0")) - {""}


def test_dist_has_one_wheel_and_one_sdist():
    assert {path.name for path in (ROOT / "dist").iterdir()} - {".gitignore"} == {
        f"skdistmlp-{VERSION}-py3-none-any.whl",
        f"skdistmlp-{VERSION}.tar.gz",
    }


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    about = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    assert wheel.keys() == in_git("skdistmlp") | {f"{ABOUT}/{name}" for name in about}
    assert "skdistmlp/py.typed" in wheel
    assert wheel[f"{ABOUT}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_the_sdist_has_what_git_has_and_nothing_else(sdist):
    assert sdist.keys() == in_git() | {"PKG-INFO"}
    assert sdist.keys() >= {
        *("README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "SECURITY.md"),
        *("tests/test_project.py", "docs/conf.py", "examples/quickstart.py"),
    }


def test_the_wheel_adds_its_commands_to_dask(wheel):
    entries = ConfigParser()
    entries.read_string(wheel[f"{ABOUT}/entry_points.txt"].decode())
    written = {group: dict(entries[group]) for group in entries.sections()}
    assert written == PROJECT["entry-points"]


def without_targets(page):
    """Return a page in Markdown without what its links and images lead to."""
    return re.sub(r"\]\([^)]+\)", "]()", page)


def test_the_metadata_describe_the_project(metadata):
    assert metadata.name == "skdistmlp"
    assert str(metadata.version) == VERSION
    assert metadata.summary == PROJECT["description"]
    readme = (ROOT / "README.md").read_text()
    assert without_targets(metadata.description) == without_targets(readme)
    assert not re.findall(r"\]\((?!https?://).*", metadata.description)
    assert metadata.project_urls == PROJECT["urls"]
    assert metadata.description_content_type == "text/markdown"
    assert metadata.license_expression == PROJECT["license"]
    assert metadata.license_files == PROJECT["license-files"]
    assert set(PROJECT["classifiers"]) <= set(metadata.classifiers)


def spelled_out(lines):
    """Yield requirements, in the place of own extras what these require."""
    for requirement in map(Requirement, lines):
        if requirement.name != "skdistmlp":
            yield requirement
        for extra in requirement.extras if requirement.name == "skdistmlp" else ():
            yield from spelled_out(PROJECT["optional-dependencies"][extra])


def test_the_metadata_require_what_the_project_does(metadata):
    extras = PROJECT["optional-dependencies"]
    expected = set(map(Requirement, PROJECT["dependencies"]))
    for extra, lines in extras.items():
        expected |= {
            Requirement(f'{requirement}; extra == "{extra}"')
            for requirement in spelled_out(lines)
        }
    assert str(metadata.requires_python) == PROJECT["requires-python"]
    assert set(metadata.provides_extra) == extras.keys()
    assert set(metadata.requires_dist) == expected


def test_the_installed_package_is_that_of_the_wheel(environment):
    said = "import skdistmlp as s; print(s.__version__, s.__file__)"
    version, file = environment.run("python", "-c", said).split()
    assert version == VERSION
    assert Path(file).is_relative_to(environment.site)
    assert "No broken requirements" in environment.run("python", "-m", "pip", "check")


def test_the_quickstart_trains_with_each_engine(environment, sdist):
    script = environment.folder / "quickstart.py"
    script.write_bytes(sdist["examples/quickstart.py"])
    printed = environment.run("python", script)
    engines = re.findall(r"^engine    (.+), 2 workers$", printed, re.M)
    assert engines == ["futures", "peers"]
    accuracies = re.findall(r"^accuracy  (\S+) on 450 unseen digits", printed, re.M)
    assert len(accuracies) == 2
    assert all(float(accuracy) > 0.95 for accuracy in accuracies)


def test_dask_has_the_commands(environment):
    listed = environment.run("dask", "mlp", "--help")
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", listed, re.M)
        usage = environment.run("dask", "mlp", command, "--help")
        assert usage.startswith(f"Usage: dask mlp {command} ")
