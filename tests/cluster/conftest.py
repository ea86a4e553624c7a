"""Fixtures that cluster tests share, and an option of the fault tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from tests.cluster.dask_processes import DaskProcesses
from tests.cluster.data.inputs import INPUTS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults-page",
        type=Path,
        metavar="FILE",
        help="write the table of faults here: what each test of them has seen",
    )


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    """A cluster whose workers tests may kill; call `have_workers` first."""
    with DaskProcesses(tmp_path_factory.mktemp("dask"), n_workers=2) as running:
        yield running


@pytest.fixture(params=INPUTS)
def convert(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Convert an array to each kind of Dask collection."""
    return INPUTS[request.param]


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list to which each value is added that a client here fetches."""
    values: list[Any] = []
    original = Client._gather

    async def gather(self: Client, *args: Any, **kwargs: Any) -> Any:
        fetched = await original(self, *args, **kwargs)
        values.extend(fetched)
        return fetched

    monkeypatch.setattr(Client, "_gather", gather)
    return values
