"""An option that writes down what the tests of faults have seen."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults-page",
        type=Path,
        metavar="FILE",
        help="write the table of faults here: what each test of them has seen",
    )
