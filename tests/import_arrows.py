"""Which room of the package imports which: `python -m tests.import_arrows` lists them.

A room is a package or a loose module. Imports inside functions count, imports under
`if TYPE_CHECKING` do not.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "skdistmlp"
ROOT = Path(__file__).parents[1]


def modules() -> dict[str, Path]:
    """Return the files of all modules by their dotted names."""
    found = {}
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = file
    return found


def imported_by(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a module imports, `from` imports in full."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for alternative in node.orelse:
                yield from imported_by(ast.Module([alternative], []))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import would be missed.
            assert node.level == 0, ast.unparse(node)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported_by(node)


@cache
def imports() -> set[tuple[str, str]]:
    """Return pairs of modules of the package, of which the first imports the second."""
    files = modules()
    pairs = set()
    for module, file in files.items():
        for name in imported_by(ast.parse(file.read_text())):
            # The name of a function or class stands for its module.
            target = name if name in files else name.rpartition(".")[0]
            if target in files and target != module:
                pairs.add((module, target))
    return pairs


def room_of(module: str, house: str) -> str | None:
    """Return the room of a package in which a module is; None if it is elsewhere."""
    if not module.startswith(f"{house}."):
        return None
    return module.removeprefix(f"{house}.").partition(".")[0]


def arrows(house: str = PACKAGE) -> dict[tuple[str, str], list[str]]:
    """Return the imports between the rooms of a package, by pairs of rooms."""
    found: dict[tuple[str, str], list[str]] = {}
    for importer, imported in sorted(imports()):
        ends = room_of(importer, house), room_of(imported, house)
        if None not in ends and ends[0] != ends[1]:
            found.setdefault(ends, []).append(f"{importer} -> {imported}")
    return found


def drawing(house: str) -> str:
    """Return the arrows between the rooms of a package, one per line."""
    return "\n".join(
        [f"{importer} -> {imported}" for importer, imported in sorted(arrows(house))]
    )


def circle(house: str) -> list[str]:
    """Return the rooms of a circle of imports; none if there is no circle."""
    targets: dict[str, set[str]] = {}
    for importer, imported in arrows(house):
        targets.setdefault(importer, set()).add(imported)

    def walk(path: list[str]) -> list[str]:
        for room in sorted(targets.get(path[-1], ())):
            if room in path:
                return path[path.index(room) :]
            if room not in done and (found := walk([*path, room])):
                return found
        done.add(path[-1])
        return []

    done: set[str] = set()
    for room in sorted(targets):
        if found := walk([room]):
            return found
    return []


if __name__ == "__main__":
    for house in (PACKAGE, f"{PACKAGE}.cluster"):
        print(f"{house}: {len(arrows(house))} arrows\n{drawing(house)}\n")  # noqa: T201
