"""The table of fixed timeouts: on the page, and nowhere else."""

import ast
from itertools import pairwise
from pathlib import Path

import skdistmlp
from skdistmlp import timeouts
from skdistmlp.timeouts import fixed_timeouts
from tests.pages import table_of

PAGE = (Path(__file__).parents[1] / "docs" / "settings.md").read_text("utf-8")


def docstrings_of_timeouts():
    """Return what the module says below each timeout."""
    body = ast.parse(Path(timeouts.__file__).read_text("utf-8")).body
    return {
        assigned.targets[0].id: " ".join(said.value.value.split())
        for assigned, said in pairwise(body)
        if isinstance(assigned, ast.Assign)
        and isinstance(said, ast.Expr)
        and assigned.targets[0].id.endswith("_S")
    }


def test_the_page_has_every_timeout_with_its_meaning():
    said = docstrings_of_timeouts()
    expected = []
    for name, value in fixed_timeouts():
        seconds = value if isinstance(value, tuple) else (value,)
        shown = ", ".join(f"{s:g} s" for s in seconds)
        expected.append([f"`{name}`", shown, said[name]])
    assert table_of(PAGE, "Fixed timeouts") == expected
    assert len(expected) > 15


NOT_TIMEOUTS = {
    "timing.py: MIN_DIFFERENCE_S",
    "offer.py: PEERS_FIT_S",
    "rates.py: TASK_S",
    "copies.py: ASSUMED_BYTES_PER_S",
    "elastic.py: FIRST_MEASURING_S",
    "rates.py: DASK_BYTE_S",
    "rates.py: SCIPY_PARAMETER_S",
    "measured.py: MISS_FROM_S",
    "auto.py: MEASURED_FROM_S",
    "trial.py: TIMED_S",
    "probe.py: LINK_S",
    "probe.py: LINKS_S",
    "probe.py: LONG_S",
    "probe.py: PAIRS_S",
    "probe.py: PAIR_S",
    "busy_share.py: TYPICAL_S",
    "busy_share.py: MAX_EMPTY_S",
    "busy_share.py: MIN_S",
    "probe.py: THRICE_S",
    "probe.py: TWICE_S",
    "calibration.py: LINK_NOISE_S",
    "measurement.py: FAR_S",
    "measurement.py: FETCHED_S",
}
"""Constants in seconds that nothing waits for: what measurements have to exceed or are
allowed to take, and what something is expected to take."""


def test_no_other_module_defines_a_timeout():
    package = Path(skdistmlp.__file__).parent
    elsewhere = {
        f"{path.name}: {node.id}"
        for path in package.rglob("*.py")
        if path != Path(timeouts.__file__)
        for statement in ast.parse(path.read_text("utf-8")).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        for node in ast.walk(target)
        if isinstance(node, ast.Name) and node.id.endswith("_S")
    }
    assert elsewhere == NOT_TIMEOUTS
