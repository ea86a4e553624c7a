"""What tests of clusters share, and an option of those of faults."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.data.inputs import INPUTS
from tests.cluster.support import DaskProcesses


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults-page",
        type=Path,
        metavar="FILE",
        help="write the table of faults here: what each test of them has seen",
    )


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    """Give a cluster whose workers may be killed: begin with `have_workers`."""
    with DaskProcesses(tmp_path_factory.mktemp("dask"), n_workers=2) as running:
        yield running


@pytest.fixture(params=INPUTS)
def convert(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Make features of an array, of each kind that may lie on a cluster."""
    return INPUTS[request.param]
