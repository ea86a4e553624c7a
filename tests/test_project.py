"""What a checkout promises: commands of the README, examples, links, the wheel."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import skdistmlp
from skdistmlp.estimators._sklearn import SITE
from tests.marks import only_quick
from tests.pages import published_links

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)


def test_ci_runs_the_readmes_test_command():
    (test_command,) = [command for command in COMMANDS if "tox" in command]
    assert test_command in (ROOT / ".ci" / "run").read_text().splitlines()


def printed_by_example(name, *options, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / name, *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MPLBACKEND": "agg",
            **environment,
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SNIPPET = re.search(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1]
"""The first of the README."""

WITHOUT_WITH = SNIPPET.replace("with Client():", "client = Client()\n    if client:")
"""The same by somebody who leaves it to the process's end to close the client."""


@pytest.mark.parametrize(
    "snippet", only_quick(0, cases=[WITHOUT_WITH, SNIPPET]), ids=["no with", "as it is"]
)
@pytest.mark.slow
def test_the_first_snippet_of_the_readme_ends_quietly(tmp_path, snippet):
    (tmp_path / "script.py").write_text(snippet)
    # Somebody else may have the port of the dashboard.
    done = subprocess.run(
        [sys.executable, "-Wignore:Port", tmp_path / "script.py"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    score, plan = re.match(r"(0\.\d+) (\w+): ", done.stdout).groups()
    assert float(score) > 0.9
    assert plan in ("peers", "local")  # whichever was measured to be faster
    # Dask's, on a machine so busy that its workers take seconds to end.
    slow = re.compile(r".* - Worker process still alive after .* seconds, killing\n")
    assert not slow.sub("", done.stderr)


def test_the_wheel_has_the_package_and_no_benchmarks():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pyproject["tool"]["hatch"]["build"]["targets"]["wheel"] == {
        "packages": ["skdistmlp"]
    }
    importing = re.compile(r"^\s*(from|import) benchmarks\b", re.M)
    for file in (ROOT / "skdistmlp").rglob("*.py"):
        assert not importing.search(file.read_text()), file


@pytest.mark.slow
def test_the_quickstart_of_the_readme_trains_with_each_engine():
    assert any(command.endswith(" examples/quickstart.py") for command in COMMANDS)
    printed = printed_by_example("quickstart.py")
    assert re.findall(r"^engine    (.+), 2 workers$", printed, re.MULTILINE) == [
        "futures",
        "peers",
    ]
    accuracies = re.findall(
        r"^accuracy  (0\.\d+) on 450 unseen digits", printed, re.MULTILINE
    )
    assert len(accuracies) == 2
    assert all(float(accuracy) > 0.95 for accuracy in accuracies)
    assert re.search(r"^time      \d+\.\d s, \d+ epochs$", printed, re.MULTILINE)
    for shard, neurons in enumerate(["0-127", "128-255"]):
        assert re.search(
            rf"shard {shard} on tcp://\S+: [\d,]+ bytes, layer 0: neurons {neurons}",
            printed,
        )


@pytest.mark.slow
def test_the_pipeline_example_searches():
    printed = printed_by_example("pipeline_search.py")
    line = r"^alpha=(\S+) +n_workers=(\d)  accuracy (\S+)  \d+\.\d\d s per fit$"
    searched = re.findall(line, printed, re.M)
    assert [candidate[:2] for candidate in searched] == [
        *(("0.0001", "1"), ("0.0001", "2")),
        *(("10", "1"), ("10", "2")),
    ]
    scores = [float(score) for _, _, score in searched]
    assert scores[::2] == scores[1::2]
    assert re.search(r"^chosen    alpha=(0\.0001|10), n_workers=[12]$", printed, re.M)
    assert (
        float(re.search(r"^accuracy  (\S+) on unseen digits", printed, re.M)[1]) > 0.9
    )


@pytest.mark.slow
def test_a_table_with_categories_and_missing_values_trains():
    printed = printed_by_example("tabular_regression.py")
    assert printed.startswith("peers: ")
    linear, network = re.findall(r"^R2 of the .*  (0\.\d+)$", printed, re.M)
    assert float(linear) + 0.05 < float(network)
    rents = [float(line.split()[-1]) for line in printed.splitlines()[-3:]]
    assert min(rents) > 300
    assert printed.count(" NaN ") == 2


@pytest.mark.slow
def test_successive_halving_continues_the_better_third():
    printed = printed_by_example("successive_halving.py")
    rungs = re.findall(r"^rung of (\d), (\d+) epochs, (\w+)$", printed, re.M)
    assert rungs == [("9", "2", "local"), ("3", "6", "peers"), ("1", "18", "peers")]
    ranked = re.findall(r"^  (\d)  accuracy (\S+)  (rate=.*)$", printed, re.M)
    assert [int(place) for place, *_ in ranked] == [*range(1, 10), 1, 2, 3, 1]
    scores = [float(score) for _, score, _ in ranked]
    assert scores[:9] == sorted(scores[:9], reverse=True)
    names = [candidate for *_, candidate in ranked]
    assert len(set(names[:9])) == 9
    assert set(names[9:12]) == set(names[:3])
    assert names[12] == names[9]
    assert min(scores[9], scores[12]) > scores[0]
    assert float(re.search(r"^accuracy  (\S+) on", printed, re.M)[1]) > 0.93


@pytest.mark.slow
def test_callbacks_show_progress_save_networks_and_stop():
    printed = printed_by_example("callbacks.py")
    line = r"^epoch-(\d+)\.pickle  loss \d+\.\d{4}  accuracy (\S+)$"
    saved = [(int(n), float(score)) for n, score in re.findall(line, printed, re.M)]
    assert [n for n, _ in saved] == list(range(5, 5 * len(saved) + 1, 5))
    *before, (n_epochs, last) = saved
    assert all(score < 0.95 for _, score in before)
    assert last >= 0.95
    assert re.search(r"^DistributedMLPClassifier - fit .*100%", printed, re.M)
    assert f"stopped   after {n_epochs} epochs" in printed
    assert f"last file a MLPClassifier, accuracy {last:.3f}" in printed


@pytest.mark.slow
def test_the_loss_curves_are_plotted():
    # With more threads, small products wait for each other on a busy machine.
    assert not printed_by_example("plot_loss_curve.py", OMP_NUM_THREADS="1")


@pytest.mark.slow
def test_the_partition_is_plotted_with_and_without_replicas():
    printed = printed_by_example("plot_partition.py")
    network = r"^peers: .*\nnetwork 64-24-200-10, .*, 2 shards(.*)$"
    assert re.findall(network, printed, re.M) == ["", " in each of 2 replicas"]
    difference = re.search(r"^largest difference .*: (\S+)$", printed, re.M)[1]
    assert float(difference) < 1e-6


@pytest.mark.slow
def test_a_fit_that_loses_a_worker_ends_with_the_same_bits():
    printed = printed_by_example("plot_recovery.py")
    assert re.search(r"^killed after epoch 30, resumed from epoch \d+$", printed, re.M)
    assert "same bits: True" in printed.splitlines()


MEASURED_PAGES = sorted(path.stem for path in (ROOT / "examples").glob("*.json"))


@pytest.mark.parametrize("name", MEASURED_PAGES)
def test_a_page_that_compares_times_ships_its_measurement(name):
    file = ROOT / "examples" / f"{name}.json"
    measurement = json.loads(file.read_text())
    assert measurement["command"] == f"python examples/{name}.py"
    assert re.match(r"\d+ cores, load \d+\.\d, ", measurement["machine"])


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED_PAGES)
def test_a_page_that_compares_times_draws_its_measurement(name):
    file = ROOT / "examples" / f"{name}.json"
    before = file.read_bytes()
    printed = printed_by_example(f"{name}.py")
    assert file.read_bytes() == before
    assert printed.startswith(
        f"measured by python examples/{name}.py with one thread per worker\n"
        f"on {json.loads(before)['machine']}\n"
    )


@pytest.mark.slow
def test_the_comparison_with_the_defaults_prints_the_figures_of_its_text():
    printed = printed_by_example("plot_beyond.py", OMP_NUM_THREADS="1")
    text = (ROOT / "examples" / "plot_beyond.py").read_text()
    assert re.search(r"after (33 of 123) epochs$", printed, re.M)[1] in text
    means = re.findall(r"^(\w.*?) +(0\.\d+) \+- .* +(0\.\d+) \+- ", printed, re.M)
    assert len(means) == 8
    _, _, came_out = text.partition("# What came out")
    assert all(f"{loss}" in came_out for _, loss, _ in means)
    accuracies = [float(accuracy) for *_, accuracy in means]
    assert max(accuracies) - min(accuracies) == pytest.approx(0.006)


@pytest.mark.slow
def test_early_stopping_ends_after_the_lowest_loss():
    printed = printed_by_example("early_stopping.py")
    n_epochs = re.search(r"^stopped    after (\d+) epochs$", printed, re.M)[1]
    best = re.search(r"^best       epoch (\d+), loss \d\.\d{3}$", printed, re.M)[1]
    assert int(n_epochs) == int(best) + 11
    accuracy = re.search(r"^accuracy   (\S+) on unseen digits$", printed, re.M)[1]
    assert float(accuracy) > 0.9


@pytest.mark.slow
def test_a_dask_array_is_trained_on_by_its_workers():
    printed = printed_by_example("dask_arrays.py")
    assert printed.startswith("peers: ")
    assert "lazy       2,000 labels in 2 blocks" in printed
    assert re.search(r"^first ten  \[[01]( [01]){9}\]$", printed, re.M)
    assert float(re.search(r"^accuracy   (\S+)$", printed, re.M)[1]) > 0.85


@pytest.mark.slow
def test_a_network_is_exported_and_imported():
    printed = printed_by_example("export_to_sklearn.py")
    assert "trained    on 2 workers" in printed
    assert re.search(r"^exported   a MLPClassifier of [\d,]+ bytes$", printed, re.M)
    assert "equal      True" in printed
    assert float(re.search(r"^imported   accuracy (\S+)$", printed, re.M)[1]) > 0.9


@pytest.mark.slow
def test_a_cluster_of_commands_shows_which_worker_holds_what():
    printed = printed_by_example("cluster_by_hand.py")
    assert printed.startswith("peers: ")
    assert re.findall(r"^shard (\d) on tcp://", printed, re.M) == ["0", "1"]
    accuracy = re.search(r"^accuracy (\S+) on unseen digits$", printed, re.M)[1]
    assert float(accuracy) > 0.9


@pytest.mark.slow
def test_the_report_is_reproduced_and_plotted(tmp_path):
    picture = tmp_path / "report.png"
    options = ["--max-width", "4", "--machines", "2", "--samples", "3"]
    printed = printed_by_example("report_crossover.py", *options, "--plot", picture)
    rows = re.findall(r"^ +(\d+)((?: +\d+\.\d{4})+)$", printed, re.M)
    assert [int(first) for first, _ in rows] == [64, 118, 1, 2]
    assert all(float(ms) >= 0 for _, numbers in rows for ms in numbers.split())
    for way in ("report", "ours"):
        assert f"two machines are faster, {way}: " in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def anchors(page):
    """Return what links to a page can name: its headings, as GitHub and MyST do."""
    text = page.read_text()
    for included in re.findall(r"^```{include} (.+)$", text, re.MULTILINE):
        text += (page.parent / included).read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


def test_relative_links_of_the_pages_lead_to_files():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    links = [
        (page, *link)
        for page in pages
        for link in re.findall(
            r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text()
        )
    ]
    assert len(links) > 5
    for page, path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {path}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


def test_links_of_the_readme_lead_to_the_site_on_a_package_index():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Documentation"] == SITE
    elsewhere = {link for link in published_links() if not link.startswith(f"{SITE}/")}
    assert elsewhere == {"https://opensource.org/license/bsd-3-clause"}


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    # The fields that this version of the format requires.
    assert citation["message"]
    for work in (citation, *citation["references"]):
        assert work["title"]
        assert all(author["name"] for author in work["authors"])
    assert citation["version"] == skdistmlp.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in project["authors"]
    ]


def test_the_changes_begin_with_this_version():
    changes = (ROOT / "CHANGELOG.md").read_text()
    version, date = re.search(r"^## (\S+) \((.+)\)$", changes, re.M).groups()
    assert version == skdistmlp.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation.get("date-released", "unreleased")) == date


def test_the_page_on_faults_starts_with_its_introduction():
    introduction = ROOT / "tests" / "cluster" / "faults" / "introduction.md"
    page = (ROOT / "docs" / "faults.md").read_text()
    assert page.startswith(introduction.read_text().rstrip())
