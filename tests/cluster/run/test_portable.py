"""Functions that workers without this package can unpickle."""

import compileall
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from operator import mul
from pathlib import Path

import pytest
from dask.base import tokenize
from dask.utils import funcname

import skdistmlp
from skdistmlp.cluster.run import portable
from skdistmlp.cluster.run.portable import PortableFunction

TWICE = pickle.dumps(partial(mul, 2))
HERE = PortableFunction("twice", skdistmlp.__version__)


def test_a_function_is_called_with_its_argument():
    assert HERE(21, TWICE) == 42
    assert HERE(21, pickled=TWICE) == 42
    assert funcname(HERE) == "twice"


def test_equal_functions_have_equal_names_in_a_graph():
    again = PortableFunction("twice", skdistmlp.__version__)
    assert tokenize(again) == tokenize(HERE) != tokenize(PortableFunction("a", "1"))


def test_the_pickle_contains_no_byte_code_and_names_only_builtins():
    names = [
        argument
        for operation, argument, _ in pickletools.genops(pickle.dumps(HERE, protocol=0))
        if operation.name == "GLOBAL"
    ]
    assert names == ["__builtin__ eval"]


ELSEWHERE = """
import pickle, sys
{before}
function = pickle.load(sys.stdin.buffer)
again = pickle.loads(pickle.dumps(function))
assert type(again).__module__ == "skdistmlp_portable", type(again).__module__
assert again.__name__ == "twice"
print(again(21, {twice}))
"""


def elsewhere(before):
    """Unpickle the function in another process, twice, and call it; return output."""
    code = ELSEWHERE.format(before=before, twice=TWICE)
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(HERE),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )


def test_it_can_be_unpickled_and_pickled_anywhere():
    done = elsewhere("")
    assert (done.stdout, done.stderr) == (b"42\n", b"")


def test_the_error_without_this_package_comes_from_the_call():
    done = elsewhere("sys.modules['skdistmlp'] = None")
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: this process cannot import skdistmlp:")
    assert last.endswith(f"Install skdistmlp {skdistmlp.__version__} on all workers.")
    assert "in __call__" in done.stderr.decode()


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(skdistmlp, "__version__", "0.0.9")
    with pytest.raises(ImportError, match=r"runs skdistmlp 0\.0\.9, but was sent a "):
        HERE(21, TWICE)


def test_the_module_imports_the_standard_library_only():
    lines = Path(portable.__file__).read_text().splitlines()
    imports = [line for line in lines if line.startswith(("import", "from"))]
    assert imports
    assert {line.split()[1] for line in imports} <= sys.stdlib_module_names


INSTALLED = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from skdistmlp.cluster.run import portable
assert portable.__file__.startswith(sys.argv[1]), portable.__file__
sys.stdout.buffer.write(pickle.dumps(portable.PortableFunction("twice", "1")))
"""


def installed(directory):
    """Pickle a function in another process, with this package from a directory."""
    return subprocess.run(
        [sys.executable, "-c", INSTALLED, str(directory)],
        capture_output=True,
        check=False,
    )


def test_the_text_is_found_in_a_zip_file(tmp_path):
    root = Path(skdistmlp.__file__).parents[1]
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in root.glob("skdistmlp/**/*.py"):
            file.write(path, path.relative_to(root))
    done = installed(archive)
    assert done.stderr == b""
    assert pickle.loads(done.stdout).__name__ == "twice"


def test_byte_code_without_its_source_is_refused(tmp_path):
    package = shutil.copytree(
        Path(skdistmlp.__file__).parent,
        tmp_path / "skdistmlp",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    compileall.compile_dir(package, quiet=1, legacy=True)
    for source in package.rglob("*.py"):
        source.unlink()
    last = installed(tmp_path).stderr.decode().splitlines()[-1]
    assert last.startswith(
        "ImportError: skdistmlp is installed here without its source"
    )
