"""The example `report_crossover.py`: its results, its options, and Ctrl-C."""

import importlib.util
import sys

import pytest
from matplotlib.figure import Figure

from tests.cluster.support import wait_until
from tests.terminal import ROOT, running

EXAMPLE = ROOT / "examples" / "report_crossover.py"


@pytest.fixture
def example(monkeypatch):
    """Import the example under the name that its child processes use."""
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, EXAMPLE.stem, module)
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_children_compute_the_same_as_a_root_alone(example):
    layers = [[[0.1 * i, -0.2, 0.3] for i in range(5)], [[0.1] * 6, [-0.1] * 6]]
    single = example.Root()
    with example.start_root(2) as root:
        assert root.outputs(layers[0], [1.0, 2.0]) == single.outputs(
            layers[0], [1.0, 2.0]
        )
        distributed = [[list(neuron) for neuron in layer] for layer in layers]
        root.train(distributed, [1.0, 2.0], 1)
    single.train(layers, [1.0, 2.0], 1)
    assert distributed == layers


def test_measurements_take_turns_and_medians_count(example):
    calls, times = [], iter([1, 10, 7, 30, 2, 20])

    def measure(name):
        calls.append(name)
        return next(times)

    medians = example.measure_in_turns(
        {name: lambda name=name: measure(name) for name in "ab"}
    )
    assert "".join(calls) == "ababab"
    assert medians == {"a": 2, "b": 20}


@pytest.mark.slow
def test_one_machine_is_a_root_without_children(example, monkeypatch):
    monkeypatch.setattr(example, "our_sample_s", lambda _, n_workers, *__: n_workers)
    monkeypatch.setattr(
        example, "report_sample_s", lambda root, *_: len(root._children)
    )
    assert example.measure_by_machines(None, (1, 2), 4, 1) == [
        {"machines": 1, "report": 0, "ours": 1},
        {"machines": 2, "report": 2, "ours": 2},
    ]


def rows_by_size(**speedups):
    """Return rows in which two machines have these speed-ups, by way."""
    return [
        {
            "parameters": 100 * 10**i,
            **{
                f"{way}, one": speedup
                for way, speedup in zip(speedups, pair, strict=True)
            },
            **{f"{way}, two": 1 for way in speedups},
        }
        for i, pair in enumerate(zip(*speedups.values(), strict=True))
    ]


def test_it_prints_where_two_machines_are_faster(example):
    rows = rows_by_size(report=[0.5, 0.6], ours=[0.5, 2.0], third=[2.0, 3.0])
    assert example.crossover(rows, "report") == "nowhere up to 1,000 parameters"
    assert example.crossover(rows, "ours") == "from about 220 parameters up"
    assert example.crossover(rows, "third").startswith("at every size measured")


def test_the_chart_by_machines_starts_with_one_alone(example, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *_, **__: drawn.append(figure)
    )
    machines = [{"machines": n, "report": n, "ours": n / 10} for n in (1, 2, 3)]
    example.plot(None, rows_by_size(report=[0.5, 0.6], ours=[0.5, 2.0]), machines)
    left, right = drawn[0].axes
    assert [line.get_label() for line in left.lines] == [
        f"{way}, {machine}"
        for way in ("report", "ours")
        for machine in ("one machine", "two machines")
    ]
    labels = [label.get_text() for label in right.get_xticklabels()]
    assert labels == ["1 alone", "2", "3"]
    assert {line.get_label(): line.get_xydata().tolist() for line in right.lines} == {
        "report": [[1, 1e3], [2, 2e3], [3, 3e3]],
        "ours": [[1, 100], [2, 200], [3, 300]],
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--machines 1", "--machines must be at least 2, got 1"),
        ("--max-width 3", "--max-width must be at least 4, got 3"),
        ("--samples 0", "--samples must be at least 1, got 0"),
        (
            "--plot /nowhere/at/all.png",
            "cannot write all.png: there is no folder /nowhere/at",
        ),
        ("--plot /proc/plot.png", "cannot write /proc/plot.png"),
        ("--plot plot.txt", "cannot draw plot.txt: its extension must be one of"),
    ],
)
def test_options_are_checked_before_measuring(
    options, message, example, monkeypatch, capsys
):
    monkeypatch.setattr(example, "measure_and_plot", pytest.fail)
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, *options.split()])
    with pytest.raises(SystemExit) as ended:
        example.main()
    assert ended.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_ends_every_process():
    with running(EXAMPLE, "--machines", "2") as command:
        # Two workers, and two children that may not have connected to the root yet.
        wait_until(
            lambda: sum("spawn_main" in line for line in command.processes()) == 4,
            "all processes were started",
        )
        command.interrupt()
        assert command.end() == (130, "")
        assert command.shown.endswith("interrupted\r\n")
        assert "Traceback" not in command.shown
        wait_until(lambda: not command.processes(), "all processes have ended")
