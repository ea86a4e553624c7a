"""The site: what it is made of, and that it is built without a warning."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from skdistmlp import plotting
from skdistmlp.estimators import _sklearn
from tests.cluster.fits.test_notebook import notebook
from tests.pages import published_links

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [path for path in EXAMPLES if path.name != "report_crossover.py"]
"""Examples of the gallery: the other is a command, which a notebook cannot run."""

MEASURED_WITHIN_S = 600
"""How long a cell may print nothing: without its file, a page measures for a minute."""


class Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id"))
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_has_a_title(example):
    title, line, empty, *_ = ast.get_docstring(
        ast.parse(example.read_text())
    ).splitlines()
    assert title
    assert line == "=" * len(title)
    assert not empty


@pytest.mark.parametrize("example", PAGES, ids=lambda path: path.name)
def test_every_page_of_the_gallery_is_a_lesson_in_steps(example):
    text = example.read_text()
    assert "\n# %%\n" in text
    assert "argparse" not in text


@pytest.mark.parametrize("display", plotting.__all__)
def test_every_display_has_a_page_in_the_gallery(display):
    pages = [path for path in EXAMPLES if path.name.startswith("plot_")]
    assert any(f"import {display}" in path.read_text() for path in pages)


@pytest.mark.parametrize("example", PAGES, ids=lambda path: path.stem)
def test_a_page_of_the_documentation_leads_to_every_example(example):
    texts = [path.read_text() for path in (ROOT / "docs").glob("*.md")]
    assert any(re.search(rf"\bgallery/{example.stem}\b", text) for text in texts)


def test_every_page_is_in_a_table_of_contents():
    texts = [path.read_text() for path in (ROOT / "docs").glob("*.md")]
    entries = {
        entry
        for text in texts
        for block in re.findall(r"^```{toctree}\n(.*?)^```", text, re.S | re.M)
        for entry in block.split()
    }
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages - {"index"} == entries - {":hidden:", "gallery/index"}


def test_pictures_of_the_pages_open_in_full_size():
    texts = [path.read_text() for path in (ROOT / "docs").glob("*.md")]
    directive = re.compile(r"^```{image} (.*?)^```$", re.S | re.M)
    pictures = [picture for text in texts for picture in directive.findall(text)]
    assert len(pictures) > 5
    for picture in pictures:
        file, *options = picture.splitlines()
        assert f":target: {file}" in options


def test_code_and_drawings_are_as_narrow_as_the_column():
    """The style sheet fits 88 characters on a screen of 1400 pixels."""
    for path in [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]:
        text = path.read_text()
        fences = re.findall(r"^ *```python\n(.*?)^ *```", text, re.S | re.M)
        if path.name == "architecture.md":
            fences += re.findall(r"^```text\n(.*?)^```", text, re.S | re.M)[:2]
        for line in "\n".join(fences).splitlines():
            assert len(line) <= 88, (path.name, line)


def test_no_page_has_formulas_that_the_site_would_show_as_latex():
    """The site loads nothing from elsewhere, so it has no mathjax."""
    for path in [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]:
        text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.S | re.M)
        text = re.sub(r"(`+).+?\1", "", text, flags=re.S)
        assert not re.findall(r"\$[^$\n]+\$", text), path.name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site from files alone, as a checkout has them."""
    source = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("_build", "api", "gallery")
    for folder in ("docs", "examples"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    pages = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
    for name in (*pages, "CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "docs", "html"],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return source / "html"


@pytest.mark.slow
def test_links_within_the_site_have_a_target(site):
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    n_links = 0
    for path, page in pages.items():
        for link in page.links:
            target = urlsplit(link)
            if target.scheme:
                continue
            n_links += 1
            found = (path.parent / unquote(target.path)).resolve()
            found = path if not target.path else found
            assert found.exists(), f"{path.name} links to {link}"
            if found in pages:
                assert unquote(target.fragment) in pages[found].anchors, (
                    f"{path.name} links to {link}"
                )
    assert n_links > 1000


@pytest.mark.slow
def test_links_of_the_published_readme_have_a_target(site):
    links = [link for link in published_links() if link.startswith(_sklearn.SITE)]
    assert len(links) > 30
    for link in links:
        target = urlsplit(link.removeprefix(f"{_sklearn.SITE}/"))
        found = site / target.path
        assert found.exists(), link
        assert not target.fragment or target.fragment in Page(found).anchors, link


@pytest.mark.slow
@pytest.mark.parametrize("example", PAGES, ids=lambda path: path.stem)
def test_every_example_has_a_page_and_a_notebook(site, example):
    assert (site / "gallery" / f"{example.stem}.html").exists()
    assert list((site / "_downloads").glob(f"*/{example.stem}.ipynb"))


@pytest.mark.slow
def test_the_gallery_offers_no_other_notebook(site):
    notebooks = {path.stem for path in (site / "_downloads").glob("*/*.ipynb")}
    assert notebooks == {example.stem for example in PAGES}


@pytest.mark.slow
@pytest.mark.parametrize("example", PAGES, ids=lambda path: path.stem)
def test_every_notebook_of_the_gallery_runs(tmp_path, example):
    from sphinx_gallery.notebook import python_to_jupyter_cli

    script = tmp_path / example.name
    shutil.copy(example, script)
    python_to_jupyter_cli([str(script)])
    script.unlink()
    cells = json.loads(script.with_suffix(".ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 1
    with notebook(tmp_path) as opened:
        for cell in code:
            opened.run(cell, within_s=MEASURED_WITHIN_S)
        assert opened.n_pictures == example.read_text().count("plt.show()")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["DistributedMLPClassifier", "DistributedMLPRegressor"]
)
def test_the_page_of_an_estimator_names_its_parameters(site, name):
    page = (site / "api" / f"skdistmlp.{name}.html").read_text()
    (signature,) = re.findall(rf'<dt [^>]*id="skdistmlp.{name}">(.*?)</dt>', page, re.S)
    text = unescape(re.sub("<[^>]*>", "", signature))
    assert "hidden_layer_sizes=(100,)" in text
    assert "checkpoint=None" in text
    assert "_args" not in text


@pytest.mark.slow
def test_estimators_link_to_existing_pages(site):
    for name in ("DistributedMLPClassifier", "DistributedMLPRegressor"):
        template = _sklearn.DocumentationLinkMixin._doc_link_template
        page = template.format(estimator_name=name).removeprefix(_sklearn.SITE)
        assert (site / page.removeprefix("/")).exists()


@pytest.mark.slow
def test_the_style_sheet_names_what_is_on_the_site(site):
    """A selector that matches nothing, after a change of the theme, has no effect."""
    text = (ROOT / "docs" / "_static" / "site.css").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    selectors = " ".join(re.findall(r"([^{}]+)\{", text))
    names = set(re.findall(r"[.#]([a-z][\w-]*)", selectors))
    assert len(names) > 5
    pages = [path.read_text() for path in site.rglob("*.html")]
    scripts = [path.read_text() for path in site.glob("_static/scripts/*.js")]
    for name in names:
        word = re.compile(rf"(?<![\w-]){name}(?![\w-])")
        assert any(word.search(page) for page in pages + scripts), name


SEARCHES = {
    "validation set": "beyond_scikit_learn",
    "early stopping": "beyond_scikit_learn",
    "dropout": "beyond_scikit_learn",
    "class weights": "beyond_scikit_learn",
    "CSV": "csv_parquet",
    "NaN": "csv_parquet",
    "saving a model": "persistence",
    "GPU": "limits",
    "memory": "deployment",
    "SSH": "deployment",
    "SLURM": "deployment",
    "pandas": "gallery/tabular_regression",
    "regression": "gallery/tabular_regression",
    "reproducible": "parity",
    "deterministic": "parity",
    "determinism": "parity",
    "GridSearchCV": "searching",
    "how many workers": "engines",
    "Docker": "deployment",
    "worker lost": "faults",
}
"""Which page a search should find first."""


@pytest.mark.slow
@pytest.mark.parametrize("query", SEARCHES)
def test_a_search_finds_its_page_first(site, query):
    """Sphinx ranks main entries of the index first, then words of titles, then text."""
    from sphinx.search.en import SearchEnglish

    text = (site / "searchindex.js").read_text()
    index = json.loads(text.removeprefix("Search.setIndex(").rstrip(")"))
    found = [
        (len(entry), index["titles"][page], index["docnames"][page])
        for entry, places in index["indexentries"].items()
        for page, _, is_main in places
        if is_main and query.lower() in entry and 2 * len(query) >= len(entry)
    ]
    if found:
        *_, page = min(found)
        assert page == SEARCHES[query]
    else:
        only_title = index["docnames"].index(SEARCHES[query])
        assert index["titleterms"][SearchEnglish({}).stem(query)] == only_title
