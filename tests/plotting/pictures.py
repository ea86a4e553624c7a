"""Check what a figure shows, and where."""

from itertools import chain, combinations

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb


def boxes(figure):
    """Yield the legends and all other texts of a figure, with their boxes."""
    for ax in figure.axes:
        yield from ((text.get_text(), text.get_window_extent()) for text in ax.texts)
        if (legend := ax.get_legend()) is not None:
            yield "legend", legend.get_window_extent()
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            for label in (axis.label, *chain(*((t.label1, t.label2) for t in ticks))):
                if label.get_visible() and label.get_text():
                    yield label.get_text(), label.get_window_extent()


def is_visible(picture, points, colour):
    """Whether the picture has the colour at one of the points."""
    colour = 255 * np.array(to_rgb(colour))
    for x, y in points.astype(int):
        bottom, left = max(y - 2, 0), max(x - 2, 0)
        there = picture[::-1][bottom : y + 3, left : x + 3]
        if (np.abs(there - colour).max(axis=-1) < 30).any():
            return True
    return False


def assert_readable(figure):
    """Assert that all artists are visible, and no text is cut off or hides another."""
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    for ax in figure.axes:
        for line in ax.lines:
            points = line.get_transform().transform(line.get_xydata())
            assert is_visible(picture, points, line.get_color())
        for dots in ax.collections:
            if isinstance(dots, PathCollection) and len(dots.get_offsets()):
                points = dots.get_offset_transform().transform(dots.get_offsets())
                assert is_visible(picture, points, dots.get_facecolor()[0])
    found = list(boxes(figure))
    for text, box in found:
        corners = box.padded(-1).corners()
        inside = [figure.bbox.contains(*corner) for corner in corners]
        assert all(inside), f"{text!r} is cut off"
    for (one, box), (other, other_box) in combinations(found, 2):
        assert not box.padded(-1).overlaps(other_box), f"{one!r} lies over {other!r}"


def assert_hides_nothing(legend, *points):
    """Assert that no point, in pixels, lies under the legend."""
    box = legend.get_window_extent()
    assert not any(box.contains(*point) for point in np.concatenate(points))


def in_pixels(line):
    return line.axes.transData.transform(line.get_xydata())
