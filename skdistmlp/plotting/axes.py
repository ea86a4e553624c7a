"""What the displays share: colours, and axes to draw on."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""Colours that the colour-blind can tell apart (Okabe, Ito, 2008)."""

GREY = "#666666"


def axes_to_draw_on(ax: "Axes | None") -> "Axes":
    """Return `ax`, or axes of a new figure.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'displays need matplotlib: pip install "skdistmlp[plots]"'
        ) from error
    _, ax = plt.subplots(layout="constrained")
    return ax
