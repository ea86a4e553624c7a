"""What tells that two processes may differ in the last bits."""

import os
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
import scipy

from skdistmlp.cluster.run import arithmetic
from skdistmlp.cluster.run.arithmetic import Arithmetic, arithmetic_here


def test_versions_are_those_that_are_loaded(monkeypatch):
    monkeypatch.setattr(np, "__version__", "2.99")
    monkeypatch.setattr(scipy, "__version__", "1.99")
    assert arithmetic_here()[:2] == ("2.99", "1.99")


def test_numba_need_not_be_installed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(arithmetic.metadata, "version", missing)
    assert arithmetic_here().numba is None


def in_new_process(module, **environment):
    """Return how a process computes that has imported a module."""
    code = (
        f"import {module}; from skdistmlp.cluster.run.arithmetic import *;"
        "print(arithmetic_here())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return eval(said.stdout, {"Arithmetic": Arithmetic})


@pytest.mark.slow
def test_what_else_a_process_has_imported_does_not_matter():
    # With a BLAS of its own.
    assert in_new_process("scipy.linalg") == in_new_process("numpy")


@pytest.mark.slow
def test_another_kind_of_processor_is_noticed():
    here = in_new_process("numpy")
    if "openblas" in here.blas:
        other = in_new_process("numpy", OPENBLAS_CORETYPE="Nehalem")
        assert other.blas != here.blas
        assert other == here._replace(blas=other.blas)
    if here.instructions:
        fewer = in_new_process("numpy", NPY_DISABLE_CPU_FEATURES=here.instructions[-1])
        assert fewer.instructions == here.instructions[:-1]
