"""What the tests read from the pages of the documentation."""


def table_of(page: str, heading: str) -> list[list[str]]:
    """Return the rows of cells of the table below a heading."""
    _, _, section = page.partition(f"## {heading}\n")
    section, _, _ = section.partition("\n## ")
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
