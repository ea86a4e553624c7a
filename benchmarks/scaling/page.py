"""Write tables into a page, between markers."""

import re
from collections.abc import Iterable, Mapping, Sequence

from skdistmlp.crossover.output import Row, markdown_table

MARKED = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def with_tables(page: str, tables: Mapping[str, Sequence[Row]]) -> str:
    """Return a page with its tables replaced by these.

    Parameters
    ----------
    page : str
        Markdown, in which ``<!-- table: NAME -->`` and ``<!-- end of table -->`` stand
        around each table.
    tables : mapping of str to rows
        By name.

    Raises
    ------
    ValueError
        As of `check_markers`.
    """
    check_markers(page, tables)
    return MARKED.sub(
        lambda match: f"{match[1]}\n{markdown_table(tables[match[2]])}\n\n{match[3]}",
        page,
    )


def check_markers(page: str, names: Iterable[str]) -> None:
    """Raise unless a page has markers for these tables.

    Raises
    ------
    ValueError
        If the page does not have each of them once, and no other.
    """
    found, expected = sorted(match[2] for match in MARKED.finditer(page)), sorted(names)
    if found != expected:
        raise ValueError(
            f"the page has markers for the tables {found}, expected one each for "
            f"{expected}: put them where the tables belong"
        )
