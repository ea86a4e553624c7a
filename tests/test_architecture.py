"""The rooms of the package, and what each may import, as the contract has it."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest

from tests.import_arrows import (
    PACKAGE,
    ROOT,
    arrows,
    circle,
    drawing,
    imported_by,
    imports,
    modules,
    room_of,
)

CLUSTER = f"{PACKAGE}.cluster"
MAX_ARROWS_IN_CLUSTER = 19

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


WITHOUT_A_TEST_FILE = {
    "_version": "one constant, which test_import compares with the distribution's",
    "parallel.ops": "a protocol; ops_contract is the test of all that implement it",
}
"""Modules without a test file, and why."""


def layers(container):
    """Return the rooms of a package from top to bottom, siblings together."""
    (contract,) = (
        contract
        for contract in CONTRACTS["contracts"]
        if contract["type"] == "layers"
        and (contract.get("containers") or [None])[0] == container
    )
    return [
        [room.strip(" ()").removeprefix(f"{PACKAGE}.") for room in layer.split("|")]
        for layer in contract["layers"]
    ]


HOUSES = pytest.mark.parametrize(
    ("house", "container"),
    [(PACKAGE, None), (CLUSTER, CLUSTER)],
    ids=[PACKAGE, CLUSTER],
)


def test_tests_mirror_the_package():
    """A module `room/name.py` is tested by `tests/room/test_name.py`.

    Of a module `_name.py`, which wraps private names of another package, the test is
    `test_name_private.py`.
    """
    missing = set()
    for module, file in modules().items():
        name = module.removeprefix(f"{PACKAGE}.")
        if file.name == "__init__.py":
            continue
        test = f"test_{file.stem}.py"
        if file.stem.startswith("_"):
            test = f"test{file.stem}_private.py"
        folder = (ROOT / "tests").joinpath(*name.split(".")[:-1])
        if not (folder / test).is_file():
            missing.add(name)
    assert missing == set(WITHOUT_A_TEST_FILE)


@HOUSES
def test_every_room_is_in_the_import_contract(house, container):
    rooms = {room_of(module, house) for module in modules()} - {None}
    assert rooms == {room for layer in layers(container) for room in layer}


@HOUSES
def test_rooms_import_downward_only(house, container):
    height = {
        room: -depth for depth, layer in enumerate(layers(container)) for room in layer
    }
    upward = {
        ends: found
        for ends, found in arrows(house).items()
        if height[ends[0]] <= height[ends[1]]
    }
    assert not upward, f"upward: {upward}\nall arrows:\n{drawing(house)}"


@HOUSES
def test_no_rooms_import_in_a_circle(house, container):
    assert not circle(house), f"{circle(house)}\nall arrows:\n{drawing(house)}"


def test_the_rooms_of_the_cluster_have_few_arrows():
    found = arrows(CLUSTER)
    assert 0 < len(found) <= MAX_ARROWS_IN_CLUSTER, drawing(CLUSTER)


def test_no_room_imports_the_root_package():
    """It imports all of them; the contract forbids it too."""
    assert not {pair for pair in imports() if pair[1] == PACKAGE}
    assert any(
        contract["type"] == "forbidden"
        and contract["source_modules"] == [f"{PACKAGE}.**"]
        and contract["forbidden_modules"] == [PACKAGE]
        for contract in CONTRACTS["contracts"]
    )


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import a.b, c", ["a.b", "c"]),
        ("from a.b import c as d, e", ["a.b.c", "a.b.e"]),
        ("def f():\n    try:\n        from a import b\n    finally: pass", ["a.b"]),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", ["b"]),
        ("if typing.TYPE_CHECKING:\n    import a", []),
    ],
)
def test_imports_are_found_wherever_they_stand(code, names):
    assert list(imported_by(ast.parse(code))) == names


def test_the_arrows_can_be_listed():
    done = subprocess.run(
        [sys.executable, "-m", "tests.import_arrows"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    n_arrows = dict(re.findall(r"^(\S+): (\d+) arrows$", done.stdout, re.M))
    assert n_arrows == {house: str(len(arrows(house))) for house in (PACKAGE, CLUSTER)}
    assert "estimators -> engines" in done.stdout
