"""Which of many cases run each time, and which with `pytest -m slow`."""

from collections.abc import Iterable
from typing import Any

import pytest


def only_quick(*positions: int, cases: Iterable[Any]) -> list[Any]:
    """Return cases as parameters, of which all but those at some positions are slow."""
    cases = list(cases)
    assert set(positions) <= set(range(len(cases)))
    return [
        case
        if number in positions
        else pytest.param(
            *(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow
        )
        for number, case in enumerate(cases)
    ]
