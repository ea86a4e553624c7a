"""Write tables into a page, between markers."""

import re
from collections.abc import Mapping, Sequence

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
        If the page does not have each of these tables once, and no other.
    """
    names = [match[2] for match in MARKED.finditer(page)]
    if sorted(names) != sorted(tables):
        raise ValueError(
            f"the page has markers for the tables {sorted(names)}, expected one each "
            f"for {sorted(tables)}: put them where the tables belong"
        )
    return MARKED.sub(
        lambda match: f"{match[1]}\n{markdown_table(tables[match[2]])}\n\n{match[3]}",
        page,
    )
