"""Forecasts of a command: bandwidths, and tables."""

from types import SimpleNamespace

import pytest

from skdistmlp.cluster.client.workers import usable_fraction
from skdistmlp.cluster.peers.measured import MeasurementError
from skdistmlp.crossover import plans
from skdistmlp.crossover.plans import (
    expected_speedup,
    forecast_for,
    forecast_on,
    note_of_memory,
    parse_bandwidth,
    parse_memory,
    table_of,
)
from skdistmlp.crossover.workloads import Workload
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.estimators.planning import outline_of_fit
from skdistmlp.exceptions import ClusterError
from skdistmlp.planning.forecast import Forecast, ForecastRow


@pytest.mark.parametrize(
    ("text", "bits_per_s"),
    [
        ("10Gbit", 1e10),
        ("100 Mbit/s", 1e8),
        ("2.5G", 2.5e9),
        ("56kbps", 56e3),
        ("10gbit", 1e10),
        ("100 MBIT/S", 1e8),
        ("2m", 2e6),
        ("1e9", None),
        ("0", None),
        ("-1G", None),
        ("1.2.3G", None),
        ("10 GB", None),
        ("10GBps", None),
        ("", None),
    ],
)
def test_bandwidths_are_read(text, bits_per_s):
    if bits_per_s is not None:
        assert parse_bandwidth(text) == pytest.approx(bits_per_s)
        return
    with pytest.raises(ValueError, match="expected bits per second, such as 10Gbit"):
        parse_bandwidth(text)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("16GiB", 2**34),
        ("500 mb", 5 * 10**8),
        ("1e9", 10**9),
        ("0", None),
        ("-1GB", None),
        ("much", None),
        ("", None),
        ("GB", None),
        ("1e999", None),
    ],
)
def test_sizes_of_memory_are_read(text, n_bytes):
    if n_bytes is not None:
        assert parse_memory(text) == n_bytes
        return
    with pytest.raises(ValueError, match="expected a size, such as 16GiB or 500MB"):
        parse_memory(text)


def row(
    n_workers: int, fit_s: float, n_replicas: int = 1, engine: str = "peers"
) -> ForecastRow:
    engine = engine if n_workers else "local"
    return ForecastRow(engine, n_workers, n_replicas, 1e-3, 0.1, fit_s, 10**6, 10**3)


def test_the_table_has_the_fastest_plan_of_each_number_of_workers():
    forecast = Forecast((row(4, 2.0, 2), row(0, 8.0), row(4, 3.0, 4), row(2, 4.0)))
    table = table_of(forecast)
    assert [line["workers"] for line in table] == [0, 2, 4]
    assert [line["speed-up"] for line in table] == [1.0, 2.0, 4.0]
    assert [line["replicas x shards"] for line in table] == ["-", "1 x 2", "2 x 2"]


def test_the_table_tells_tasks_from_peers():
    forecast = Forecast((row(0, 1.0), row(2, 3.0, engine="futures"), row(2, 4.0)))
    table = table_of(forecast)
    assert [line["engine"] for line in table] == ["local", "futures"]
    assert [line["replicas x shards"] for line in table] == ["-", "1 x 2"]


def test_without_room_here_the_table_has_no_speedups():
    table = table_of(Forecast((row(2, 4.0),)))
    assert [line["speed-up"] for line in table] == [None]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((row(0, 1.0), row(9, 1.0)), 1.0),
        # Of nine workers, a layer of eight neurons makes no nine shards.
        ((row(0, 1.0), row(9, 1.0, 9)), None),
        ((row(9, 1.0),), None),
        ((), None),
    ],
    ids=["all", "no shards", "not here", "not measured"],
)
def test_a_speedup_is_expected_if_both_plans_are(monkeypatch, rows, expected):
    def forecast_on(*_):
        if not rows:
            raise ClusterError("the workers did not answer within 15 s")
        return Forecast(rows)

    monkeypatch.setattr(plans, "forecast_on", forecast_on)
    assert expected_speedup(None, 9, Workload(4, (8,), 1, 1)) == expected


def test_a_network_without_room_anywhere_has_no_forecast(monkeypatch):
    monkeypatch.setattr(plans, "choose_workers", lambda *_: ("tcp://worker:1",))
    monkeypatch.setattr(plans, "fastest_plan", lambda *_: None)
    with pytest.raises(ClusterError, match="nor the workers have room for this netwo"):
        forecast_on(None, Workload(4, (8,), 1, 1), 1)


def test_workers_that_cannot_be_measured_say_what_to_do(monkeypatch):
    def fastest_plan(*_):
        raise MeasurementError("other fits hold or measure the workers")

    monkeypatch.setattr(plans, "choose_workers", lambda *_: ("tcp://worker:1",))
    monkeypatch.setattr(plans, "fastest_plan", fastest_plan)
    message = "other fits hold or measure the workers. Try again when they are free"
    with pytest.raises(ClusterError, match=message):
        forecast_on(None, Workload(4, (8,), 1, 1), 1)


def test_rows_that_are_not_made_up_count_as_long_training():
    """Steps that would run compiled in the fit are timed so."""
    workload = Workload(64, (256, 256), 300, 200)
    estimator = DistributedMLPClassifier(**workload.parameters(200))
    fitted = outline_of_fit(estimator, *workload.data())
    assert fitted.trial.runs_compiled
    planned = plans._outline(workload, 200)
    assert planned.trial.key == fitted.trial.key
    assert planned.length == fitted.length
    short = plans._outline(workload, 1)
    assert not short.trial.runs_compiled


def test_a_forecast_intends_to_take_no_workers(monkeypatch):
    """Fits that are planned at the same time may have all of them."""
    forecast, requests = Forecast((row(0, 1.0),)), []

    def fastest_plan(request, *_):
        requests.append(request)
        return SimpleNamespace(forecast=forecast)

    monkeypatch.setattr(plans, "choose_workers", lambda *_: ("a worker",))
    monkeypatch.setattr(plans, "fastest_plan", fastest_plan)
    workload = Workload(64, (256, 256), 10, 1)
    assert plans.forecast_on(None, workload, 5) is forecast
    assert [request.only_plans for request in requests] == [True]


def test_slower_links_make_more_workers_slower():
    workload = Workload(64, (256, 256), 10, 1)
    fast, slow = (
        {r.name: r.step_s for r in forecast_for(workload, 5, 4, rate).rows}
        for rate in (1e11, 1e7)
    )
    assert fast.keys() == slow.keys()
    assert slow["peers on 4 (1 x 4)"] > 2 * fast["peers on 4 (1 x 4)"]


def test_plans_without_room_are_left_out():
    workload = Workload(64, (256, 256), 10, 1)
    everything = forecast_for(workload, 5, 4, 1e10)
    held = sorted({row.bytes_held for row in everything.rows})
    # Dask pauses workers before they reach their limit.
    limit = int(held[len(held) // 2] / usable_fraction(has_nanny=True)) + 1
    some = forecast_for(workload, 5, 4, 1e10, limit)
    assert 0 < len(some.rows) < len(everything.rows)
    assert max(row.bytes_held for row in some.rows if row.n_workers) < limit
    with pytest.raises(ClusterError, match="nor the workers have room for this netwo"):
        forecast_for(workload, 5, 4, 1e10, 1000)


def test_what_this_machine_could_not_hold_has_a_note(monkeypatch):
    monkeypatch.setattr(plans, "memory_limit_of_process", lambda: 16 * 10**9)
    modest = Forecast((row(2, 1.0),))
    assert note_of_memory(modest) is None
    huge = Forecast((row(2, 1.0)._replace(bytes_held=643 * 10**9),))
    assert note_of_memory(huge).startswith(
        "note: a process of this plan holds up to 643 GB, and this machine has 16 GB."
    )
