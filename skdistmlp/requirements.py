"""Check that the packages that this one needs are as new as it needs them."""

import re
from importlib import metadata


def check_installed(*names: str) -> None:
    """Raise ImportError if a package is older than the metadata of this one asks for.

    Installers see to that, but what is installed afterwards may replace it. Without
    metadata, in a checkout that was never installed, nothing is checked.

    Parameters
    ----------
    *names : str
        Of distributions, such as "scikit-learn".

    Raises
    ------
    ImportError
        It names the package, the version found and the version needed.
    """
    try:
        requirements = metadata.requires("skdistmlp") or []
    except metadata.PackageNotFoundError:
        return
    for name in names:
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            # Importing it says so.
            continue
        floor = _floor(name, requirements)
        if floor is not None and release_numbers(found) < release_numbers(floor):
            raise ImportError(
                f"skdistmlp needs {name} {floor} or newer, but version {found} is "
                f'installed. Upgrade it, for example by: pip install "{name}>={floor}"'
            )


def _floor(name: str, requirements: list[str]) -> str | None:
    """Return the oldest version of a package that requirements allow."""
    for requirement in requirements:
        match = re.fullmatch(rf"{re.escape(name)}\s*>=\s*([\d.]+)", requirement)
        if match:
            return match[1]
    return None


def release_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to be compared; "1.9.0rc1" counts as 1.9.0."""
    numbers = re.match(r"[\d.]+", version)
    return tuple(map(int, re.findall(r"\d+", numbers[0]))) if numbers else ()
