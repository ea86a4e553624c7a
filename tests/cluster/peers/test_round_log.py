"""Log lines about rounds, from reports."""

import logging
from dataclasses import replace

import pytest

from skdistmlp.cluster.peers.round_log import RoundLog
from skdistmlp.cluster.peers.shard import Report
from skdistmlp.training.progress import LbfgsProgress, Progress
from skdistmlp.training.schedules import LearningRateSchedule

NAMES = ("shard 0 on tcp://a:1", "shard 1 on tcp://b:2")
NOTHING = Progress(LearningRateSchedule("constant", 0.1), 0.1)


def lines_of(
    caplog: pytest.LogCaptureFixture, resumed: Progress | None, *rounds: list[Report]
) -> list[str]:
    log = RoundLog(NAMES, resumed)
    with caplog.at_level(logging.INFO, "skdistmlp"):
        for number, reports in enumerate(rounds):
            log.write(number, reports)
    return caplog.messages


def test_samples_of_a_round_are_counted_from_the_one_before(caplog):
    before = replace(NOTHING, n_iter=2, n_samples_seen=1000)
    first = replace(before, n_iter=3, n_samples_seen=1500, loss=0.25)
    second = replace(first, n_iter=5, n_samples_seen=3500, loss=0.125)
    assert lines_of(
        caplog,
        before,
        [Report(first, None, 0.5, 0.25), Report(first, None, 0.5, 0.0)],
        [Report(second, None, 2.0, 0.1), Report(second, None, 2.0, 0.3)],
    ) == [
        "round 0: 3 epochs, loss 0.250000, 1,000 samples/s, 0.50 s, 25% of it "
        "exchanging, slowest shard 1 on tcp://b:2",
        "round 1: 5 epochs, loss 0.125000, 1,000 samples/s, 2.00 s, 10% of it "
        "exchanging, slowest shard 0 on tcp://a:1",
    ]


def test_a_shard_that_scores_for_all_is_not_the_slowest(caplog):
    reports = [Report(NOTHING, None, 2.0, 0.1, 1.0), Report(NOTHING, None, 2.0, 0.9)]
    (line,) = lines_of(caplog, None, reports)
    assert line.endswith("slowest shard 1 on tcp://b:2")


def test_a_round_without_an_epoch_has_no_loss_and_no_speed(caplog):
    reports = [Report(NOTHING, None, 0.0, 0.0)] * 2
    (line,) = lines_of(caplog, None, reports)
    assert line.startswith("round 0: 0 epochs, 0.00 s, 0% of it exchanging")


def test_lbfgs_has_no_epochs(caplog):
    ended = Report(LbfgsProgress(7, 0.5), None, 1.5, 0.3)
    before, after = lines_of(
        caplog, None, [Report(None, None, 1.5, 0.3)] * 2, [ended] * 2
    )
    assert before.startswith("round 0: 1.50 s, 20% of it exchanging")
    assert after.startswith(
        "round 1: 7 iterations, loss 0.500000, 1.50 s, 20% of it exchanging"
    )
