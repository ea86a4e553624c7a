"""What the tests read from the pages of the documentation."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def published_links() -> list[str]:
    """Return what the README's links and images lead to on a package index."""
    text = (ROOT / "README.md").read_text()
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    for entry in hatch["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(entry["pattern"], entry["replacement"], text)
    return re.findall(r"\]\(([^)]+)\)", text)


def table_of(page: str, heading: str) -> list[list[str]]:
    """Return the rows of cells of the table below a heading."""
    _, _, section = page.partition(f"## {heading}\n")
    section, _, _ = section.partition("\n## ")
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
