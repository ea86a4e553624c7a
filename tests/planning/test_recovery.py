"""What is said of a fit that has lost workers."""

import pickle
from dataclasses import replace

from skdistmlp import Recovery
from skdistmlp.planning.plan import local_plan

RECOVERY = Recovery(
    ("tcp://a:1",),
    "worker tcp://a:1 was lost while training",
    12.34,
    0.5,
    7,
    ("tcp://b:1",),
    1,
    False,
)


def test_a_recovery_says_what_happened():
    assert str(RECOVERY) == (
        "worker tcp://a:1 was lost after 12.3 s, while training; the fit resumed from "
        "epoch 7 on tcp://b:1, with results equal up to rounding to those of an "
        "undisturbed fit"
    )


def test_a_worker_that_may_still_be_there_is_not_called_lost():
    apart = "no connection between shard 0 on tcp://a:1 and shard 1 on tcp://b:1"
    assert str(replace(RECOVERY, error=apart)).startswith(
        f"the fit went on without worker tcp://a:1 after 12.3 s, since {apart}; it "
        f"resumed from epoch 7 on tcp://b:1"
    )
    # Of two, one ended the run.
    both = str(replace(RECOVERY, lost=("tcp://a:1", "tcp://b:1")))
    assert both.startswith(
        "the fit went on without workers tcp://a:1, tcp://b:1 after 12.3 s, since "
        "worker tcp://a:1 was lost while training; it resumed from"
    )


def test_only_lost_workers_are_called_lost():
    retired = replace(RECOVERY, kind="retired")
    assert str(retired).startswith("worker tcp://a:1 was being retired after 12.3 s; ")
    both = replace(RECOVERY, lost=("tcp://a:1", "tcp://b:1"))
    named = replace(both, error="workers tcp://a:1, tcp://b:1 were lost while training")
    assert str(named).startswith("workers tcp://a:1, tcp://b:1 were lost after")
    paused = replace(both, kind="paused", same_bits=True)
    assert str(paused) == (
        "workers tcp://a:1, tcp://b:1 stayed paused after 12.3 s; the fit resumed from "
        "epoch 7 on tcp://b:1, with results identical to those of an undisturbed fit"
    )
    broken = replace(RECOVERY, lost=(), error="it broke (why)", kind="broken")
    assert str(broken).startswith(
        "an exchange failed after 12.3 s, though no worker was lost: it broke (why); "
        "the fit resumed from epoch 7"
    )
    moved = replace(
        RECOVERY, lost=(), error="a step should take less", kind="moved", n_iter=4
    )
    assert str(moved) == (
        "the fit moved to 1 worker after 12.3 s, since a step should take less; it "
        "resumed from epoch 4 on tcp://b:1, with results equal up to rounding to "
        "those of an undisturbed fit"
    )


def test_each_worker_has_its_own_cause():
    two = replace(
        RECOVERY, lost=("tcp://b:1", "tcp://a:1"), kinds=("retired", "lost"), n_iter=0
    )
    assert str(two).startswith(
        "worker tcp://a:1 was lost after 12.3 s, while training; worker tcp://b:1 was "
        "being retired meanwhile; the fit started over on"
    )
    apart = replace(two, error="no connection")
    assert str(apart).startswith(
        "the fit went on without worker tcp://a:1 after 12.3 s, since no connection; "
        "worker tcp://b:1 was being retired meanwhile; it started over on"
    )


def test_recoveries_of_older_versions_are_losses():
    *older, kind, restarts, kinds = vars(RECOVERY).values()
    assert (kind, restarts, kinds) == ("lost", False, ())
    assert Recovery(*older) == RECOVERY


def test_a_plan_keeps_its_recoveries():
    plan = local_plan((4, 2), "why not")
    with_one = type(plan)(**vars(plan) | {"recoveries": (RECOVERY,)})
    assert str(RECOVERY) in str(with_one)
    assert pickle.loads(pickle.dumps(with_one)).recoveries == (RECOVERY,)
    # As a version that had none has saved it.
    state = plan.__getstate__()
    del state["recoveries"]
    old = object.__new__(type(plan))
    old.__setstate__(state)
    assert old.recoveries == ()


def test_a_fit_that_keeps_nothing_starts_over():
    assert "; the fit started over on tcp://b:1, with results" in str(
        replace(RECOVERY, n_iter=0)
    )


def test_l_bfgs_says_that_it_began_again():
    said = str(replace(RECOVERY, restarts=True, same_bits=False))
    assert f"resumed from iteration {RECOVERY.n_iter} on" in said
    assert "L-BFGS began again" in said
