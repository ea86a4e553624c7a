"""Build the documentation with Sphinx: ``tox -e docs``."""

from skdistmlp import __version__

project = "skdistmlp"
copyright = "2026, the skdistmlp developers"  # noqa: A001 (Sphinx's name)
release = __version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
]
exclude_patterns = ["_build"]
numpydoc_show_class_members = False
html_theme = "pydata_sphinx_theme"
myst_heading_anchors = 3
