"""The scaling benchmark: its rates, its model, its tables and its page."""

import itertools
import json
import math
import re
import sys
from dataclasses import replace

import pytest

from benchmarks import __main__ as command
from benchmarks.network.links import Link
from benchmarks.network.workloads import parse_network
from benchmarks.scaling import measured, model, page, rates, tables
from benchmarks.scaling.model import (
    Plan,
    alone_s,
    best_plan,
    exchanges_of,
    grids,
    step_time,
)
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost, flop
from skdistmlp.planning.machines import PAYLOAD
from skdistmlp.planning.rates import Rates
from skdistmlp.wire.packet import HEADER_BYTES
from tests.test_project import ROOT

PAGE = ROOT / "docs" / "scaling.md"

FREE = Rates({1: 1e9, 1024: 1e9}, math.inf, 0.0, 0.0, math.inf, 0.0)
"""Only products take time, at the same rate whatever their shape."""

NETWORK = parse_network("784-128-128@200")
GBIT = 1e9


def test_the_page_has_what_the_formulas_say():
    """After a change of one: `python -m benchmarks scaling --page ... --keep-rates`."""
    text = PAGE.read_text()
    assert sorted(tables.all_tables(rates.read())) == sorted(tables.NAMES)
    assert page.with_tables(text, tables.all_tables(rates.read())) == text


def cells_of(text, title):
    """Return the rows of the table of a page that follows a line, as lists."""
    _, _, rest = text.partition(title)
    lines = rest.strip().splitlines()
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]


def test_the_rule_of_thumb_has_the_figures_of_the_page():
    text = PAGE.read_text()
    rule = (ROOT / "docs" / "engines.md").read_text()
    _, _, *rows = cells_of(rule, "of the faster grid:\n")
    assert len(rows) > 10
    lab = {}
    _, _, *cells = cells_of(text, "<!-- table: measured -->\n")
    for run, network, batch, link, _, _, speedup, *_ in cells:
        if run.startswith("network lab") and link == "1 Gbit/s":
            lab.setdefault((network, batch), []).append(speedup)
    for network, batch, two, *computed in rows:
        assert two == max(lab.get((network, batch), [""]))
        name = re.sub(r"\W+", "-", network).strip("-")
        name += "" if batch == "200" else f"@{batch}"
        table = cells_of(text, f"<!-- table: speed-up of {name} -->\n")
        of_page = {workers: cell for workers, cell, *_ in table}
        for workers, speedups in zip("48", computed, strict=True):
            assert of_page.get(workers, ": ").endswith(f": {speedups}")


def test_a_page_needs_markers_for_each_table():
    text = "<!-- table: a -->\nold\n<!-- end of table -->\nbetween\n"
    assert page.with_tables(text, {"a": [{"x": 1}]}) == (
        "<!-- table: a -->\n\n| x |\n| - |\n| 1 |\n\n<!-- end of table -->\nbetween\n"
    )
    for wrong in ({}, {"b": []}, {"a": [], "b": []}):
        with pytest.raises(ValueError, match=r"markers for the tables \['a'\], expe"):
            page.with_tables(text, wrong)


def test_one_worker_computes_everything_and_sends_nothing():
    time = step_time(NETWORK, Plan(Grid(1)), GBIT, FREE)
    split = NetworkSplit.even(NETWORK.layer_units, 1)
    assert time.computed_s == pytest.approx(flop(split, StepCost.of_step(200)) / 1e9)
    assert time.travelled_s == 0
    assert alone_s(NETWORK, FREE) == time.with_overlap_s == time.without_overlap_s


def test_two_shards_take_half_of_the_products_and_the_time_on_the_link():
    time = step_time(NETWORK, Plan(Grid(2)), GBIT, FREE)
    assert time.computed_s == pytest.approx(alone_s(NETWORK, FREE) / 2)
    # Activations and deltas of 64 neurons, logits of 10, in three messages.
    n_bytes = 200 * 4 * (2 * 64 + 10) + 3 * HEADER_BYTES
    assert time.travelled_s == pytest.approx(8 * n_bytes / (PAYLOAD * GBIT))
    assert time.without_overlap_s == time.computed_s + time.travelled_s
    assert time.with_overlap_s == max(time.computed_s, time.travelled_s)
    once = step_time(NETWORK, Plan(Grid(2), "once"), GBIT, FREE)
    n_bytes += 100 * 784 * 4 + HEADER_BYTES
    assert once.travelled_s == pytest.approx(8 * n_bytes / (PAYLOAD * GBIT))


def test_each_rate_adds_its_part():
    plan = Plan(Grid(2, 2))
    free = step_time(NETWORK, plan, GBIT, FREE)
    n_parameters = NetworkSplit.even(NETWORK.layer_units, 2).layout(0).n_parameters
    n_bytes = sum(each.sent.n_bytes for each in exchanges_of(NETWORK, plan))
    for rate, value, computed_s, travelled_s in [
        ("optimizer_bytes_per_s", 1e9, 28 * n_parameters / 2 / 1e9, 0),
        ("layer_s", 1e-4, 3e-4, 0),
        # To one other shard three times, to one other replica twice.
        ("message_s", 1e-5, 5e-5, 0),
        ("exchanged_bytes_per_s", 1e9, (n_bytes + 5 * HEADER_BYTES) / 1e9, 0),
        ("round_trip_s", 1e-3, 0, 2.5e-3),
    ]:
        time = step_time(NETWORK, plan, GBIT, replace(FREE, **{rate: value}))
        busy_s = time.computed_s + time.handled_s
        assert busy_s - free.computed_s == pytest.approx(computed_s)
        assert time.travelled_s - free.travelled_s == pytest.approx(travelled_s)


@pytest.mark.parametrize("n_workers", [1, 6, 64, 1024])
def test_grids_have_neurons_and_rows_for_everyone(n_workers):
    found = list(grids(NETWORK, n_workers))
    assert all(grid.n_ranks == n_workers for grid in found)
    assert max(grid.n_replicas for grid in found) <= 200
    assert len(set(found)) == len(found) > 0
    # Too many for its rows and neurons.
    assert best_plan(parse_network("4-2@3"), 8, GBIT, FREE) is None


def test_the_best_plan_is_the_fastest():
    plan = best_plan(NETWORK, 16, GBIT, FREE)
    fastest = min(
        step_time(NETWORK, Plan(grid), GBIT, FREE).without_overlap_s
        for grid in grids(NETWORK, 16)
    )
    assert step_time(NETWORK, plan, GBIT, FREE).without_overlap_s == fastest


@pytest.mark.parametrize("grid", [Grid(16), Grid(4, 4), Grid(1, 16)], ids=str)
def test_no_process_has_more_of_the_traffic_than_the_first(grid):
    """Which is the one that the model looks at; one neuron or row more or less."""
    split = model.split_of(NETWORK.layer_units, grid.n_shards)
    first = sum(each.sent.n_bytes for each in exchanges_of(NETWORK, Plan(grid)))
    for rank in range(grid.n_ranks):
        sent = model.exchanges(split, model.cost_of(NETWORK), grid.n_replicas, rank)
        assert sum(each.sent.n_bytes for each in sent) <= 1.02 * first


def test_the_batch_from_which_replicas_send_less_is_that_of_the_formula():
    units = NETWORK.layer_units
    n_parameters = NetworkSplit.even(units, 1).n_parameters
    batch = tables._least_batch_by_bytes(units, 2)
    assert batch == pytest.approx(n_parameters / (128 + 10), abs=1)


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(rates, "MIN_S", 0.0)
    monkeypatch.setattr(rates, "LARGE", 16)
    monkeypatch.setattr(rates, "WIDTHS", [1, 4])
    monkeypatch.setattr(rates, "N_PARAMETERS", 1000)
    monkeypatch.setattr(rates, "MIN_EXCHANGES", 3)
    found = rates.measure()
    assert list(found.flop_per_s) == [1, 4]
    positive = [*found.flop_per_s.values(), found.optimizer_bytes_per_s]
    assert min(*positive, found.message_s, found.round_trip_s) > 0
    # A difference of two times, which noise may turn round for messages this short.
    assert math.isfinite(found.exchanged_bytes_per_s)


LAB_ROW = {
    "link": "1 Gbit/s",
    "network": "64-(256, 256)",
    "batch_size": 2000,
    "one thread, ms": 12.0,
    "neurons, ms": 22.0,
    "neurons, speedup": 0.55,
    "replicas, ms": 7.0,
    "replicas, speedup": 1.7,
    "torch, data-parallel, speedup": 0.9,
}


def test_figures_of_the_lab_are_put_beside_the_model(tmp_path, monkeypatch):
    file = tmp_path / "measured.json"
    file.write_text(measured.FILE.read_text())
    monkeypatch.setattr(measured, "FILE", file)
    kept = [c for c in measured.cells() if not c.source.startswith("network lab")]
    n_before = len(kept)
    delayed = {**LAB_ROW, "link": "1 Gbit/s, 0.5 ms"}
    for date in ("June 2026", "July 2026"):
        measured.add_lab({"network, 2 workers": [LAB_ROW, delayed]}, date)
    # Those of an earlier lab are gone, and the model knows of no delay.
    found = measured.cells()
    assert len(found) == n_before + 2
    shards, replicas = found[-2:]
    assert shards == measured.Cell(
        "network lab, July 2026",
        Link(1000),
        parse_network("64-256-256@2000"),
        Plan(Grid(2)),
        12.0,
        0.55,
    )
    assert (replicas.plan, replicas.speedup) == (Plan(Grid(1, 2)), 1.7)
    row = list(measured.compare(found, rates.read()))[-1]
    assert (row["grid"], row["one thread, ms"], row["measured"]) == (
        *("2 x 1", "12"),
        "1.70",
    )


def test_the_model_is_scaled_to_the_thread_that_was_measured():
    """A core that is twice as fast waits for the same link."""
    here_ms = 1e3 * alone_s(NETWORK, FREE)
    slow, fast = (
        measured.Cell("", Link(1000), NETWORK, Plan(Grid(2)), alone_ms, 1.0)
        for alone_ms in (here_ms, here_ms / 2)
    )
    n_bytes = 200 * 4 * (2 * 64 + 10) + 3 * HEADER_BYTES
    link_ms = 1e3 * 8 * n_bytes / (PAYLOAD * GBIT)
    for cell, row in zip(
        [slow, fast], measured.compare([slow, fast], FREE), strict=True
    ):
        least = cell.alone_ms / (cell.alone_ms / 2 + link_ms)
        most = cell.alone_ms / max(cell.alone_ms / 2, link_ms)
        assert row["model"] == f"{least:.2f} to {most:.2f}"


def test_a_link_without_a_limit_takes_no_time():
    workload = parse_network("784-1024-1024")
    cell = measured.Cell("", Link(None), workload, Plan(Grid(2)), 10.0, 1.9)
    (row,) = measured.compare([cell], FREE)
    assert (row["link"], row["model"]) == ("unshaped", "2.00 to 2.00")
    assert row["measured is"] == "5% below"


def test_cells_outside_of_the_bounds_are_counted():
    places = ["within", "12% below", "3% below", "within", "5% above"]
    compared = [
        {"link": "1 Gbit/s", "grid": "1 x 2", "measured is": place} for place in places
    ]
    other = {"link": "1 Gbit/s", "grid": "2 x 1", "measured is": "within"}
    assert [tuple(row.values()) for row in measured.summary([*compared, other])] == [
        ("1 Gbit/s", "1 x 2", 5, 2, "12%", "5%"),
        ("1 Gbit/s", "2 x 1", 1, 1, "-", "-"),
    ]
    assert [measured._place(x, 1.0, 2.0) for x in (0.5, 0.995, 1.5, 2.005, 2.5)] == [
        *("50% below", "within", "within", "within"),
        "25% above",
    ]


def run(monkeypatch, tmp_path, *options):
    file = tmp_path / "b.json"
    options = ["benchmarks", "scaling", *options, "--json", str(file)]
    monkeypatch.setattr(sys, "argv", list(map(str, options)))
    command.main()
    return json.loads(file.read_text())


def test_the_command_writes_the_page(tmp_path, monkeypatch, capsys):
    for module, name in ((rates, "rates.json"), (measured, "measured.json")):
        copy = tmp_path / name
        copy.write_text(module.FILE.read_text())
        monkeypatch.setattr(module, "FILE", copy)
    other = replace(rates.read(), layer_s=1e-3)
    monkeypatch.setattr(rates, "measure", lambda: other)
    copy = tmp_path / "scaling.md"
    copy.write_text(PAGE.read_text())
    lab = tmp_path / "network.json"
    lab.write_text(json.dumps({"network, 2 workers": [LAB_ROW]}))
    results = run(monkeypatch, tmp_path, "--page", copy, "--lab", lab)
    assert results["scaling: bytes"][0]["replicas x shards"] == "1 x 16"
    assert rates.read() == other
    text = copy.read_text()
    assert "| each layer of a step, µs                         | 1e+03" in text
    assert "| network lab, " in text
    assert "one thread, 1 of 1" in capsys.readouterr().err
    # And once more, from what was kept.
    monkeypatch.setattr(rates, "measure", lambda: pytest.fail("it measured"))
    run(monkeypatch, tmp_path, "--page", copy, "--keep-rates")
    assert copy.read_text() == text


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("--page", "no markers", "the page has markers for the tables []"),
        ("--page", None, "cannot read"),
        ("--lab", "{}", "has no figures of two workers"),
        ("--lab", "no JSON", "has no figures of two workers"),
        ("--lab", None, "cannot read"),
    ],
)
def test_files_are_checked_before_time_is_spent(
    option, text, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(rates, "measure", lambda: pytest.fail("it measured"))
    file = tmp_path / "file"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, option, file)
    assert said in " ".join(capsys.readouterr().err.split())
