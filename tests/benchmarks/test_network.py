"""The network benchmark, without a lab: links, networks, tables, the command."""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.network import command as network
from benchmarks.network import (
    leftovers,
    measurement,
    plans,
    probe,
    processes,
    workloads,
)
from benchmarks.network.cells import Cell
from benchmarks.network.forecasts import (
    Forecast,
    compare_forecast,
    errors_of,
)
from benchmarks.network.interruptions import Interrupted, held, interruptible
from benchmarks.network.links import MIN_BURST, RATES, Link, parse_rate
from benchmarks.network.measurement import TORCH, Results, compare
from benchmarks.network.namespaces import (
    LabError,
    LabUnavailableError,
    check_available,
)
from benchmarks.network.plans import ONE_THREAD, PLANS
from benchmarks.network.probe import LinkRates
from benchmarks.network.processes import Driver
from benchmarks.network.workloads import (
    MAX_EPOCH_S,
    TIMED_S,
    half_of,
    parse_network,
    sized_for,
)
from skdistmlp import DistributedMLPClassifier
from skdistmlp.crossover.workloads import Workload


def test_rates_are_read_and_named():
    assert [Link(parse_rate(rate)).name for rate in RATES] == [
        "100 Mbit/s",
        "1 Gbit/s",
        "10 Gbit/s",
        "unshaped",
    ]
    assert Link(1000, 0.5).name == "1 Gbit/s, 0.5 ms"


@pytest.mark.parametrize("text", ["", "10", "0G", "1.5G", "1g", "10000M", "fast"])
def test_other_rates_are_refused(text):
    with pytest.raises(ValueError, match=f"the rate of a link is '{text}'; expected"):
        parse_rate(text)


def test_links_are_shaped_in_both_directions():
    link = Link(1000)
    assert link.uplink == link.downlink
    assert link.downlink == [
        *("tbf", "rate", "1000mbit", "burst", "12500", "latency", "400ms")
    ]
    assert Link(None).uplink == Link(None).downlink == []
    # Of the slowest, a burst is two packets.
    assert str(MIN_BURST) in Link(1).downlink


def test_delays_are_made_by_netem_on_the_way_to_the_switch():
    link = Link(100, 1.5)
    assert link.uplink == [
        *("netem", "delay", "1.5ms", "limit", "100000", "rate", "100mbit")
    ]
    assert link.downlink == Link(100).downlink
    assert Link(None, 1.5).uplink == ["netem", "delay", "1.5ms", "limit", "100000"]
    assert not Link(None, 1.5).downlink


def test_networks_are_read():
    workload = parse_network("784-1024-1024@8000")
    assert (workload.name, workload.batch_size) == ("784-(1024, 1024)", 8000)
    assert parse_network("64-8").batch_size == 200
    for text in [*workloads.DEFAULT, *workloads.FORECAST]:
        workload = parse_network(text)
        assert 2 <= workload.n_steps <= 100
        # Each fit sends the rows.
        assert workload.n_steps <= 2 or workload.data()[0].nbytes < 20e6


@pytest.mark.parametrize("text", ["", "784", "784-", "784-0", "784-5@", "a-b"])
def test_other_networks_are_refused(text):
    with pytest.raises(ValueError, match=f"the network is '{text}'; expected"):
        parse_network(text)


def test_every_plan_is_valid_for_an_estimator():
    for plan in PLANS.values():
        DistributedMLPClassifier(**plan(3))
    for names in plans.DEFAULT, plans.FORECAST:
        assert ONE_THREAD not in names
        assert set(names) <= set(PLANS)


def test_networks_whose_steps_take_long_are_trained_for_fewer():
    workload = parse_network("784-256")
    assert sized_for(workload, 1.0 / workload.n_steps) == workload
    slow = sized_for(workload, MAX_EPOCH_S / 7.5)
    assert (slow.n_steps, slow.hidden) == (7, workload.hidden)
    assert sized_for(workload, 1e3).n_steps == 2


def test_networks_whose_steps_are_short_are_trained_for_longer():
    workload = parse_network("64-100")
    short = sized_for(workload, 1e-4)
    assert short.n_epochs * short.n_steps * 1e-4 == pytest.approx(TIMED_S, rel=0.1)
    assert replace(short, n_epochs=workload.n_epochs) == workload


class DriverOfSlowLinks:
    """A driver that says what it was told to train."""

    def __init__(self):
        self.trained = []

    def forecast(self, workload):
        rows = expected(0, 1, 1e-3), expected(2, 1, MAX_EPOCH_S / 3.5)
        return Forecast(rows, 0.5)

    def probe(self):
        return LinkRates(100.0, 1000.0, "cubic")

    def step_ms(self, plan, workload):
        self.trained.append((plan, workload.n_steps))
        return 1.0


@pytest.mark.parametrize("with_forecasts", [True, False])
def test_plans_that_are_forecast_to_be_slow_are_measured_for_fewer_steps(
    with_forecasts,
):
    lab: Any = LabOfSlowTimers(1.0)
    driver: Any = DriverOfSlowLinks()
    workload, names = parse_network("784-256"), [ONE_THREAD, "neurons", "replicas"]
    options = [Link(1000)], [workload], names, 1, Results(), with_forecasts
    measurement.measure(lab, driver, *options)
    n_steps = workload.n_steps
    of_neurons = 3 if with_forecasts else n_steps
    assert driver.trained == [
        (ONE_THREAD, n_steps),
        ("neurons", of_neurons),
        # Nothing was said of it.
        ("replicas", n_steps),
    ]


CELL = Cell(Link(1000), Workload(4, (3,), n_steps=1, n_epochs=1))


def test_candidates_are_compared_with_one_thread_and_with_torch():
    steps_ms = {
        ONE_THREAD: [8.0, 10.0, 30.0],
        "neurons": [4.0, 10.0, 10.0],
        **{name: [1.0] * 3 for name in TORCH},
        "torch, data-parallel": [16.0, 20.0, 10.0],
        "torch, tensor-parallel": [5.0, 15.0, 50.0],
    }
    row = compare(CELL, steps_ms)
    assert (row["link"], row["network"], row["batch_size"]) == (
        "1 Gbit/s",
        "4-(3)",
        200,
    )
    assert (row["neurons, ms"], row["neurons, speedup"]) == (10, 2)
    assert row["torch, data-parallel, speedup"] == 0.5
    # The better of torch's two on two processes, not its single one.
    assert row["best plan over torch"] == 1.5
    assert "one thread, speedup" not in row


def test_only_complete_cells_are_in_the_tables():
    results = Results(steps_ms={CELL: {ONE_THREAD: [1.0, 2.0], "neurons": [1.0]}})
    assert results.tables(2, repeats=2) == {}
    results.steps_ms[CELL]["neurons"].append(2.0)
    results.rates.append({"link": "1 Gbit/s"})
    tables = results.tables(3, repeats=2)
    assert list(tables) == ["network links", "network, 3 workers"]


@pytest.fixture
def run_command(monkeypatch, tmp_path):
    def run(*options, names=("network",)):
        path = str(tmp_path / "n.json")
        monkeypatch.setattr(
            sys, "argv", ["benchmarks", *names, "--json", path, *options]
        )
        with pytest.raises(SystemExit) as ended:
            command.main()
        return ended.value.code

    return run


def test_the_command_writes_what_an_interrupted_run_has(
    run_command, monkeypatch, tmp_path, capsys
):
    def run(arguments):
        assert [link.batch_size for link in arguments.networks] == [7, 200]
        steps_ms = {ONE_THREAD: [4.0], "neurons": [2.0]}
        return Results(steps_ms={CELL: steps_ms}).tables(2, 1), 143

    monkeypatch.setattr(network, "run", run)
    # After an interruption, the other benchmarks are not run.
    monkeypatch.setattr(command.futures, "run", pytest.fail)
    plot = tmp_path / "n.png"
    options = ["--networks", "4-3@7", "4-3", "--plot", str(plot)]
    assert run_command(*options, names=["network", "futures"]) == 143
    assert "| 1 Gbit/s | 4-(3)   | 200 " in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "n.json").read_text())["network, 2 workers"]
    assert row["neurons, speedup"] == 2
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--workers 1", "--workers is 1, and must be from 2 to 200"),
        ("--delay-ms -1", "--delay-ms is -1, and must be from 0 to 10000"),
        ("--links fast", "the rate of a link is 'fast'; expected"),
        ("--networks 784", "the network is '784'; expected"),
        ("--plans walrus", "invalid choice: 'walrus'"),
    ],
)
def test_invalid_options_are_refused(options, message, run_command, capsys):
    assert run_command(*options.split()) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def like_root(monkeypatch):
    """Let this process seem to be root on Linux with all tools."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda tool: f"/sbin/{tool}")


def test_other_systems_have_no_lab(like_root, monkeypatch, run_command, capsys):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert run_command() == network.UNAVAILABLE
    assert capsys.readouterr().err == (
        "cannot run the network benchmark: this is darwin, and network namespaces are "
        "Linux's: run it there\n"
    )


def test_other_users_than_root_have_no_lab(
    like_root, monkeypatch, run_command, capsys, tmp_path
):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run_command() == network.UNAVAILABLE
    assert "only root may make network namespaces" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_tools_are_named(like_root, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "tc" else tool)
    with pytest.raises(LabUnavailableError, match=r"command tc .*: install iproute2"):
        check_available([])


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("netns add", r"are not permitted here \(.*: No permission\): run it outside"),
        ("qdisc add", r"cannot make a link of 1 Gbit/s, 2 ms \(.*: No permission\)"),
    ],
)
def test_what_the_kernel_refuses_is_said(
    like_root, monkeypatch, tmp_path, refused, message
):
    def output(arguments):
        failed = refused in " ".join(arguments)
        return subprocess.CompletedProcess(arguments, int(failed), "", "No permission")

    monkeypatch.setattr(leftovers, "output", output)
    monkeypatch.setattr(leftovers, "new_lab_name", lambda: "skdistmlp-lab-1-1-1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(LabUnavailableError, match=message):
        check_available([Link(1000, 2.0)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_raise_once_nothing_is_half_done(number):
    before = signal.getsignal(number)
    done = []

    def be_interrupted():
        with held():
            with held():
                os.kill(os.getpid(), number)
                done.append("inner")
            done.append("outer")
        done.append("after")

    with pytest.raises(Interrupted) as ended, interruptible():
        be_interrupted()
    assert done == ["inner", "outer"]
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_a_worker_that_hangs_up_within_a_message_ends_the_other_side(monkeypatch):
    monkeypatch.setattr(probe, "PORT", 0)
    ports = queue.SimpleQueue()
    create_server = socket.create_server

    def listen(address):
        server = create_server(("127.0.0.1", 0))
        ports.put(server.getsockname())
        return server

    monkeypatch.setattr(probe.socket, "create_server", listen)
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(probe._answer)
        with socket.create_connection(ports.get(timeout=30)) as connection:
            connection.sendall(b"m" + bytes(1000))
        with pytest.raises(ConnectionError, match="hung up within a message"):
            answering.result(30)


class Lab:
    """A lab whose driver is this process's child, and whose workers may end."""

    def __init__(self, said, n_checks):
        self.said, self.n_checks = said, n_checks

    def check_processes(self):
        """Notice that a worker has ended, after a number of checks."""
        self.n_checks -= 1
        if self.n_checks < 0:
            raise LabError("the worker1 of the lab ended")

    def end_of_log(self, name):
        return f"the log of {name}"


@contextmanager
def asked(lab):
    """Yield a driver that answers a line with what its lab says."""
    program = f"import time; input(); print({lab.said!r}, flush=True); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", program if lab.said else "import time; time.sleep(600)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        driver = Driver.__new__(Driver)
        driver._lab, driver._process = lab, process
        yield driver
        process.kill()


@pytest.mark.parametrize(
    ("n_checks", "message"), [(20, "the worker1 of"), (10**6, "driver of .*:\nlost")]
)
def test_an_error_is_blamed_on_a_process_that_ends_soon_after(
    n_checks, message, monkeypatch
):
    """Connections of a killed process close before others see that it has ended."""
    monkeypatch.setattr(processes, "ENDING_S", 2.0 if n_checks < 100 else 0.1)
    with (
        asked(Lab(json.dumps({"error": "lost"}), n_checks)) as driver,
        pytest.raises(LabError, match=message),
    ):
        driver.probe()


def test_a_driver_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(processes, "ANSWER_S", 0.1)
    monkeypatch.setattr(processes, "CHECK_S", 0.05)
    with (
        asked(Lab("", 10**6)) as driver,
        pytest.raises(
            LabError, match=r"not answered for 0.1 s(.|\n)*the log of driver"
        ),
    ):
        driver.probe()


class LabOfSlowTimers:
    """A lab, and its driver, whose links carry more the longer they may burst."""

    def __init__(self, enough_s: float) -> None:
        self.shaped: list[Link] = []
        self._enough_s = enough_s

    def shape(self, link: Link) -> None:
        self.shaped.append(link)

    def probe(self) -> LinkRates:
        share = min(1.0, self.shaped[-1].burst_s / self._enough_s)
        return LinkRates(100.0, share * 950, "cubic")


@pytest.mark.parametrize(
    ("enough_s", "last_s"), [(1e-4, 1e-4), (3e-4, 4e-4), (1, 8e-4)]
)
def test_links_burst_for_as_long_as_it_takes_to_carry_their_rate(enough_s, last_s):
    lab: Any = LabOfSlowTimers(enough_s)
    row = measurement._shape(lab, lab, Link(1000))
    assert lab.shaped[-1].burst_s == pytest.approx(last_s)
    assert row["bursts, us"] == pytest.approx(1e6 * last_s)
    assert [link.mbit_per_s for link in lab.shaped] == [1000] * len(lab.shaped)


def test_delayed_links_are_shaped_once():
    lab: Any = LabOfSlowTimers(1.0)
    measurement._shape(lab, lab, Link(1000, delay_ms=1.0))
    assert len(lab.shaped) == 1


def expected(
    n_workers: int, n_replicas: int, step_s: float, engine: str = "peers"
) -> dict[str, Any]:
    grid = {"n_workers": n_workers, "n_replicas": n_replicas}
    return {"engine": engine if n_workers else "local", **grid, "step_s": step_s}


def test_forecasts_are_compared_with_what_was_measured():
    cell = Cell(Link(1000), parse_network("64-256@2000"))
    forecast = Forecast(
        [
            expected(2, 1, 0.011),
            expected(0, 1, 0.02),
            expected(2, 2, 0.025),
            expected(1, 1, 0.02),
        ],
        0.5,
    )
    assert forecast.chosen == "neurons"
    measured_ms = {ONE_THREAD: [20.0, 21.0, 19.0], "neurons": [10.0], "replicas": [20]}
    rows = list(compare_forecast(cell, forecast, measured_ms))
    found = {row["plan"]: (row["error"], row["chosen, over the best"]) for row in rows}
    assert found == {
        "replicas": ("+25%", ""),
        ONE_THREAD: ("+0%", ""),
        "neurons": ("+10%", 1.0),
    }
    other = {**rows[0], "link": "10 Gbit/s", "expected, ms": 40.0}
    first, second, half, last = errors_of([*rows, other])
    assert [(row["link"], row["cells"]) for row in (first, second, half, last)] == [
        ("1 Gbit/s", "all"),
        ("10 Gbit/s", "all"),
        ("all", "kept out"),
        ("all", "all"),
    ]
    assert [table["within 1.1 of the best"] for table in (first, last)] == [1, 1]
    assert first["median error"] == "10%"
    assert first["worst choice, over the best"] == 1.0
    assert (last["plans"], last["within 30%"]) == (4, "75%")


def test_errors_are_given_for_the_cells_that_were_kept_out_too():
    forecast = Forecast([expected(0, 1, 0.02)], 0.5)
    rows = [
        row
        for network, measured_ms in (("64-100", 20.0), ("64-100@2000", 10.0))
        for row in compare_forecast(
            Cell(Link(1000), parse_network(network)),
            forecast,
            {ONE_THREAD: [measured_ms]},
        )
    ]
    _, fitted, kept_out, everything = errors_of(rows)
    assert [row["cells"] for row in (fitted, kept_out)] == ["fitted", "kept out"]
    tables = fitted, kept_out, everything
    assert [row["median error"] for row in tables] == ["0%", "100%", "50%"]
    assert [row["plans"] for row in tables] == [1, 1, 2]


def test_the_halves_of_the_cells_are_alike():
    """Each has all layers, and both batch sizes equally often."""
    halves = {"fitted": [], "kept out": []}
    for text in workloads.FORECAST:
        workload = parse_network(text)
        halves[half_of(workload)].append(workload)
    fitted, kept_out = halves.values()
    for key in ("name", "batch_size"):
        of_fitted, of_kept_out = (
            sorted(getattr(workload, key) for workload in half)
            for half in (fitted, kept_out)
        )
        assert of_fitted == of_kept_out
    # Fewer steps make it no other network, and unknown ones were never fitted.
    assert half_of(sized_for(fitted[0], 10.0)) == "fitted"
    assert half_of(parse_network("50-60")) == "kept out"


def test_a_choice_that_is_not_the_best_is_behind_it():
    cell = Cell(Link(1000), parse_network("64-256"))
    forecast = Forecast([expected(0, 1, 0.02), expected(2, 1, 0.03)], 0.5)
    measured_ms = {ONE_THREAD: [20.0], "neurons": [16.0]}
    rows = list(compare_forecast(cell, forecast, measured_ms))
    assert {row["plan"]: row["chosen, over the best"] for row in rows} == {
        ONE_THREAD: 1.25,
        "neurons": "",
    }
    *_, table = errors_of(rows)
    assert (table["within 1.1 of the best"], table["within 1.25"]) == (0, 1)
    assert table["slower than one thread"] == 0


@pytest.mark.parametrize(
    ("neurons_ms", "n_slower"), [([21.0, 23.0], 1), ([20.0, 23.0], 0)]
)
def test_a_choice_is_slower_than_one_thread_if_no_repeat_was_as_fast(
    neurons_ms, n_slower
):
    cell = Cell(Link(1000), parse_network("64-256"))
    forecast = Forecast([expected(2, 1, 0.02), expected(0, 1, 0.03)], 0.5)
    measured_ms = {ONE_THREAD: [18.0, 20.0], "neurons": neurons_ms}
    rows = list(compare_forecast(cell, forecast, measured_ms))
    assert errors_of(rows)[-1]["slower than one thread"] == n_slower


def test_grids_are_named_as_plans_of_the_lab():
    names = [
        plans.name_of(expected(*grid, 1.0))
        for grid in ((0, 1), (1, 1), (4, 1), (4, 4), (4, 2))
    ]
    assert names == [ONE_THREAD, "one worker", "neurons", "replicas", "2-replicas"]
    assert plans.name_of(expected(4, 1, 1.0, "futures")) == "futures"
    assert {*names, "futures"} <= set(PLANS)
