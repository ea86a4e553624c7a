"""Check that the packages that this one needs are as new as it needs them."""

import re
from functools import cache
from importlib import metadata


@cache
def check_installed() -> None:
    """Raise ImportError if a package is older than the metadata of this one asks for.

    Installers see to that, but what is installed afterwards may replace it. Without
    metadata, in a checkout that was never installed, nothing is checked.

    Raises
    ------
    ImportError
        It names the package, the version found and the version needed.
    """
    try:
        requirements = metadata.requires("skdistmlp") or []
    except metadata.PackageNotFoundError:
        return
    # Those of extras have a marker after the version.
    lines = (re.fullmatch(r"([\w-]+)\s*>=\s*([\d.]+)", line) for line in requirements)
    for name, floor in (line.groups() for line in lines if line):
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            # Importing it says so.
            continue
        # None: its metadata is damaged. A build that does not know its own version is
        # called "0+unknown".
        if not found or found.startswith("0+"):
            continue
        if release_numbers(found) < release_numbers(floor):
            raise ImportError(
                f"skdistmlp needs {name} {floor} or newer, but version {found} is "
                f'installed. Upgrade it, for example by: pip install "{name}>={floor}"'
            )


def release_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to be compared.

    "1.9.0rc1" counts as 1.9.0, and that as 1.9.
    """
    release = re.match(r"[\d.]+", version)
    if release is None:
        return ()
    return tuple(map(int, re.findall(r"\d+", re.sub(r"(\.0+)+\.?$", "", release[0]))))
