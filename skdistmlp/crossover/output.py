"""Write results: tables, JSON, and checks of the files they go to."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

Row = Mapping[str, Any]
"""One row of a table, by the names of its columns."""


def markdown_table(rows: Sequence[Row]) -> str:
    """Lay out rows with the same columns as a Markdown table."""
    header = list(rows[0])
    cells = [[_format(row[name]) for name in header] for row in rows]
    widths = [
        max(len(name), *(len(line[i]) for line in cells))
        for i, name in enumerate(header)
    ]
    lines = [header, ["-" * width for width in widths], *cells]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write results as JSON, with a description of this machine."""
    machine = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": threadpool_info(),
    }
    path.write_text(json.dumps({"machine": machine, **results}, indent=2) + "\n")


def check_writable(path: Path) -> None:
    """Raise unless a file can be written, before time is spent measuring.

    Raises
    ------
    ValueError
        If its folder does not exist, or it cannot be opened for writing.
    """
    folder = path.absolute().parent
    if not path.name:
        raise ValueError(f"{str(path)!r} is not the name of a file")
    if not folder.is_dir():
        raise ValueError(f"cannot write {path.name}: there is no folder {folder}")
    is_new = not path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error
    if is_new:
        path.unlink()


def check_plot_file(path: Path) -> None:
    """Raise unless matplotlib can write a plot to a file.

    Raises
    ------
    ValueError
        If the file cannot be written, matplotlib is not installed, or the extension of
        the file is none of its formats.
    """
    if find_spec("matplotlib") is None:
        raise ValueError(
            f"cannot draw {path.name} without matplotlib: pip install matplotlib"
        )
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ValueError(
            f"cannot draw {path.name}: its extension must be one of "
            f"{', '.join(f'.{name}' for name in sorted(formats))}"
        )
    check_writable(path)


def _format(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
