"""Build the documentation with Sphinx: ``tox -e docs``."""

import inspect
import tomllib
from pathlib import Path

import click
from sphinx.util.inspect import stringify_signature
from sphinx_gallery.sorting import ExplicitOrder

from skdistmlp import __version__
from skdistmlp.cli import mlp
from skdistmlp.estimators.habits import HabitsMixin

DOCS = Path(__file__).parent

project = "skdistmlp"
author = "the skdistmlp developers"
copyright = "2026, the skdistmlp developers"  # noqa: A001 (Sphinx's name)
release = __version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
]
exclude_patterns = ["_build"]
highlight_language = "none"  # for fences without a language, such as output
templates_path = ["_templates"]
nitpicky = True
# The build has no network access, so it cannot resolve scikit-learn's names.
nitpick_ignore_regex = [("py:.*", r"sklearn\..*")]

# Docstrings describe types in words, with shapes.
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
PYPROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())
numpydoc_validation_checks = set(PYPROJECT["tool"]["numpydoc_validation"]["checks"])
# The docstring of this method is scikit-learn's.
numpydoc_validation_exclude = {r"\.set_callbacks$"}

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

# One example is left out: it takes minutes and starts processes that import it by name,
# which a notebook cannot do. docs/report.md has its output, and the tests run it.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"__init__\.py|report_crossover\.py",
    "within_subsection_order": ExplicitOrder(
        [
            "quickstart.py",
            "early_stopping.py",
            "tabular_regression.py",
            "pipeline_search.py",
            "successive_halving.py",
            "callbacks.py",
            "optuna_pruning.py",
            "cluster_by_hand.py",
            "dask_arrays.py",
            "export_to_sklearn.py",
            "plot_loss_curve.py",
            "plot_beyond.py",
            "plot_partition.py",
            "plot_recovery.py",
            "plot_forecast.py",
            "plot_worker_counts.py",
            "plot_crossover.py",
            "*",
        ]
    ),
    "abort_on_example_error": True,
    # Pictures that are sharp on telephones, whose pixels are small.
    "image_srcset": ["2x"],
    "default_thumb_file": str(DOCS / "_static" / "logo.svg"),
    "backreferences_dir": "gallery/backreferences",
    "doc_module": ("skdistmlp",),
    "download_all_examples": False,
    "write_computation_times": False,
}

# The --help of each command, as it prints it.
API = DOCS / "api"
API.mkdir(exist_ok=True)
for name, command in mlp.commands.items():
    help_text = command.get_help(click.Context(command, info_name=f"dask mlp {name}"))
    (API / f"dask-mlp-{name}.txt").write_text(help_text)

html_theme = "pydata_sphinx_theme"
html_title = "skdistmlp"
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "skdistmlp", "image_dark": "_static/logo.svg"},
    "navigation_with_keys": False,
    "show_prev_next": True,
    # The tables of faults need its room.
    "secondary_sidebar_items": {"**": ["page-toc"], "faults": []},
    "footer_start": ["copyright"],
    "footer_end": [],
}
# These pages have no siblings to list in a sidebar.
html_sidebars = {"index": [], "changelog": []}


def signature_of_init(app, what, name, obj, options, signature, returns):  # noqa: ARG001
    """Return the parameters of an estimator, where autodoc takes those of `__new__`."""
    if what != "class" or not issubclass(obj, HabitsMixin):
        return None
    return stringify_signature(inspect.signature(obj), show_annotation=False), None


def setup(app):
    """Connect what changes the pages on the way."""
    app.connect("autodoc-process-signature", signature_of_init)
