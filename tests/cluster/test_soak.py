"""Fit after fit in the "peers" engine, under random faults at random moments.

``SKDISTMLP_SOAK_FITS`` says how many fits, ``SKDISTMLP_SOAK_SEED`` the seed of the
first; each fit has its own, and all about it follows from that. To see what happens,
and to repeat a fit alone::

    pytest -m slow -s tests/cluster/test_soak.py
    SKDISTMLP_SOAK_SEED=123 SKDISTMLP_SOAK_FITS=1 pytest -m slow -s ...
"""

import gc
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from distributed import Client, Event, LocalCluster, get_worker

from skdistmlp import DistributedMLPClassifier, WorkerLostError
from skdistmlp.cluster import peers, shard_run
from skdistmlp.cluster.pinned import PinnedTasks
from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel.buffered import BufferedShard
from skdistmlp.parallel.mesh import Mesh
from skdistmlp.training import loop
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.support import WITHIN_S, in_thread, wait_until
from tests.estimators.support import InterruptAfter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::sklearn.exceptions.ConvergenceWarning",
        "ignore:Training interrupted by user:UserWarning",
    ),
]

N_FITS = int(os.environ.get("SKDISTMLP_SOAK_FITS", "300"))
FIRST_SEED = int(os.environ.get("SKDISTMLP_SOAK_SEED", "0"))

BOUND_S = 30.0
"""Seconds beyond the timeout of an exchange in which a fit ends, however it ends."""

SPARED = 50
"""In every other so many fits no worker ends: their memory can then be judged."""

WARM_UP = 10
"""Fits after which a process has loaded and allocated all that it ever needs."""

ALLOWANCE = 48 * 2**20
"""Bytes by which a process may have grown since then."""

TOPIC = "skdistmlp-soak"


# On the workers.

MOMENTS: dict[str, tuple[Any, str, int]] = {
    "opening": (shard_run, "listen", 1),
    "connecting": (shard_run, "meet", 1),
    "step": (Mesh, "begin_step", 20),
    "exchange": (Mesh, "_exchange", 40),
    "round": (shard_run.ShardRun, "train", 3),
    "collecting": (BufferedShard, "collect", 1),
}
"""Where a fault may strike: before a call of a function, and up to which call."""


class PlantedError(Exception):
    """An error in a shard."""


_RELEASED = threading.Event()
_DISARM: list[Callable[[], None]] = []


def hold(seed: int) -> None:
    """Tell the client that the moment is there; give it some time to act."""
    get_worker().log_event(TOPIC, seed)
    _RELEASED.wait(0.5)


def fail() -> None:
    raise PlantedError("planted")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def arm(moment: str, n_calls: int, strike: Callable[[], None]) -> None:
    """Let a fault strike in this process at that call of that function."""
    owner, name, _ = MOMENTS[moment]
    original = getattr(owner, name)
    calls: list[None] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == n_calls:
            strike()
        return original(*args, **kwargs)

    _RELEASED.clear()
    setattr(owner, name, call)
    _DISARM.append(lambda: setattr(owner, name, original))


def disarm() -> None:
    _RELEASED.set()
    while _DISARM:
        _DISARM.pop()()


# On the client.


@dataclass(frozen=True)
class Case:
    """A fit and its fault."""

    seed: int
    fault: str
    moment: str
    n_calls: int
    rank: int
    n_workers: int
    timeout_s: float
    round_s: float
    parameters: dict[str, Any]

    @classmethod
    def drawn(cls, seed: int) -> "Case":
        """Return the case of a seed."""
        rng = random.Random(seed)
        spared = seed // SPARED % 2 == 1
        faults = {
            name: fault.weight
            for name, fault in FAULTS.items()
            if not (spared and fault.ends_worker)
        }
        [fault] = rng.choices(list(faults), list(faults.values()))
        moment = rng.choice(list(MOMENTS))
        n_workers = rng.randint(1, 3)
        n_layers = rng.randint(1, 3)
        return cls(
            seed,
            fault,
            moment,
            rng.randint(1, MOMENTS[moment][2]),
            rng.randrange(n_workers),
            n_workers,
            rng.uniform(1.0, 2.0),
            rng.choice([0.0, 5.0]),
            {
                "hidden_layer_sizes": [rng.randint(3, 60) for _ in range(n_layers)],
                "activation": rng.choice(["relu", "tanh", "logistic"]),
                "solver": rng.choice(["adam", "adam", "sgd", "lbfgs"]),
                "batch_size": rng.choice([100, 300, 1000]),
                "early_stopping": rng.random() < 0.3,
                "max_iter": rng.randint(5, 20),
                "random_state": seed,
            },
        )

    def __str__(self) -> str:
        solver = self.parameters["solver"]
        return (
            f"seed {self.seed}: {self.fault}, {self.moment} {self.n_calls}, shard "
            f"{self.rank} of {self.n_workers}, {solver}"
        )


@dataclass
class Scene:
    """What a fault has to do with."""

    client: Client
    case: Case
    victim: str
    process: psutil.Process
    reached: threading.Event = field(default_factory=threading.Event)
    patch: pytest.MonkeyPatch = field(init=False)
    fit: Future[Any] = field(init=False)

    def arm(self, strike: Callable[[], None]) -> None:
        """Prepare the worker."""
        case = self.case
        self.client.run(arm, case.moment, case.n_calls, strike, workers=[self.victim])

    def until(self, condition: Callable[[], Any], what: str) -> bool:
        """Wait for a condition or the end of the fit; say whether it came true."""
        wait_until(lambda: self.fit.done() or condition(), f"{what}, or the fit ends")
        return not self.fit.done() and bool(condition())

    def wake(self) -> None:
        """Let the worker go on, if it stands still."""
        with suppress(psutil.NoSuchProcess):
            self.process.resume()

    def has_lost_worker(self) -> bool:
        """Say whether the worker's process has ended."""
        with suppress(psutil.NoSuchProcess):
            return self.process.status() == psutil.STATUS_ZOMBIE
        return True


def no_fault(scene: Scene) -> Iterator[None]:
    yield


def killed(scene: Scene) -> Iterator[None]:
    scene.arm(kill)
    yield


def failing(scene: Scene) -> Iterator[None]:
    scene.arm(fail)
    yield


def is_stopped(scene: Scene) -> bool:
    return bool(scene.process.status() == psutil.STATUS_STOPPED)


def stopped_briefly(scene: Scene) -> Iterator[None]:
    scene.arm(stop)
    yield
    scene.until(lambda: is_stopped(scene), "the worker stands still")
    scene.wake()


def stopped(scene: Scene) -> Iterator[None]:
    """Until the others have given up, or would have, were there any."""
    scene.arm(stop)
    yield
    if scene.until(lambda: is_stopped(scene), "the worker stands still"):
        with suppress(TimeoutError):
            scene.fit.exception(scene.case.timeout_s + 6)
    scene.wake()


def restarted(scene: Scene) -> Iterator[None]:
    scene.arm(partial(hold, scene.case.seed))
    yield
    if scene.until(scene.reached.is_set, "the moment is there"):
        scene.client.restart_workers(
            [scene.victim], timeout=WITHIN_S, raise_for_error=False
        )


def busy(scene: Scene) -> Iterator[None]:
    """Another user's task runs where a shard is to run."""
    gate = Event(f"soak-{scene.case.seed}", client=scene.client)
    name = gate.name
    holding = scene.client.submit(
        lambda: Event(name).wait(WITHIN_S), workers=[scene.victim], key=name
    )
    wait_until(lambda: scene.client.processing()[scene.victim], "the worker is busy")
    yield
    scene.until(
        lambda: len(scene.client.processing()[scene.victim]) > 1, "a shard is queued"
    )
    gate.set()
    holding.result(WITHIN_S)


def interrupted(scene: Scene, n_times: int = 1) -> Iterator[None]:
    """Ctrl-C while the client waits for a round, at a moment of a shard."""
    original, left = peers.PeersRun._print_lines, [None] * n_times

    def print_lines(run: peers.PeersRun, timeout_s: float) -> None:
        def is_over() -> bool:
            return all(future.done() for future in run._under_way)

        if left:
            wait_until(lambda: scene.reached.is_set() or is_over(), "the moment")
            if scene.reached.is_set():
                left.pop()
                raise KeyboardInterrupt
        original(run, timeout_s)

    scene.patch.setattr(peers.PeersRun, "_print_lines", print_lines)
    scene.arm(partial(hold, scene.case.seed))
    yield
    if scene.until(lambda: not left, "Ctrl-C was pressed"):
        scene.client.run(disarm, workers=[scene.victim])


def interrupted_twice(scene: Scene) -> Iterator[None]:
    yield from interrupted(scene, 2)


def interrupted_elsewhere(scene: Scene) -> Iterator[None]:
    """Ctrl-C while the client sends or fetches."""
    name = random.Random(scene.case.seed).choice(["place", "submit", "fetch"])
    original, calls = getattr(PinnedTasks, name), []

    def call(*args: Any) -> Any:
        calls.append(None)
        if len(calls) == scene.case.n_calls % 5:
            raise KeyboardInterrupt
        return original(*args)

    scene.patch.setattr(PinnedTasks, name, call)
    yield


@dataclass(frozen=True)
class Fault:
    """What may happen to a fit, and how it may end then, beside as it should.

    Attributes
    ----------
    happen : callable
        Prepares the fault, yields while the fit begins, and goes on.
    weight : int
        How often, in a hundred.
    errors : tuple of type
        What the fit may raise.
    ends_worker : bool
        Whether a worker goes away.
    """

    happen: Callable[[Scene], Iterator[None]]
    weight: int
    errors: tuple[type[BaseException], ...] = ()
    ends_worker: bool = False


FAULTS = {
    "none": Fault(no_fault, 25),
    "killed": Fault(killed, 12, (WorkerLostError,), ends_worker=True),
    "restarted": Fault(restarted, 8, (WorkerLostError,), ends_worker=True),
    "stopped briefly": Fault(stopped_briefly, 10),
    "stopped": Fault(stopped, 10, (ExchangeError,)),
    "failing": Fault(failing, 10, (PlantedError,)),
    "busy": Fault(busy, 5),
    "interrupted": Fault(interrupted, 10, (KeyboardInterrupt,)),
    "interrupted twice": Fault(interrupted_twice, 5, (KeyboardInterrupt,)),
    "interrupted elsewhere": Fault(interrupted_elsewhere, 5, (KeyboardInterrupt,)),
}


def suffered(client: Client, case: Case, fit: Callable[[], Any]) -> Future[Any]:
    """Fit, and let the fault of the case happen; return the fit when it is over."""
    victim = list(client.nthreads())[case.rank]
    process = psutil.Process(client.run(os.getpid, workers=[victim])[victim])
    scene = Scene(client, case, victim, process)

    def listen(event: tuple[float, Any]) -> None:
        if event[1] == case.seed:
            scene.reached.set()

    client.subscribe_topic(TOPIC, listen)
    with (
        pytest.MonkeyPatch.context() as scene.patch,
        dask.config.set({"skdistmlp.exchange-timeout": f"{case.timeout_s}s"}),
    ):
        scene.patch.setattr(peers, "ROUND_S", case.round_s)
        happening = FAULTS[case.fault].happen(scene)
        next(happening)
        scene.fit = in_thread(fit)
        try:
            next(happening, None)
            wait([scene.fit], case.timeout_s + BOUND_S)
            if not scene.fit.done():
                show_stacks(client)
        finally:
            scene.wake()
    client.unsubscribe_topic(TOPIC)
    assert scene.fit.done(), f"the fit has not ended: {case}"
    if scene.has_lost_worker():
        wait_until(lambda: victim not in client.nthreads(), "the worker is missed")
    client.wait_for_workers(3, timeout=WITHIN_S)
    client.run(disarm)
    return scene.fit


def show_stacks(client: Client) -> None:
    """Print what every thread does, here and on the workers."""

    def stacks() -> str:
        frames = sys._current_frames().values()
        return "\n\n".join("".join(traceback.format_stack(frame)) for frame in frames)

    show(stacks())
    for worker, text in client.run(stacks, on_error="return").items():
        show(f"--- {worker}\n{text}")


def show(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def judged(case: Case, clf: Any, data: Any, error: BaseException | None) -> str:
    """Return how a fit ended; what begins with "wrong" may not be."""
    if error is not None:
        named = isinstance(error, FAULTS[case.fault].errors)
        return type(error).__name__ if named else f"wrong: {error!r}"
    if has_weights_of(clf, local(case).fit(*data)):
        return "right"
    if not case.fault.startswith("interrupted"):
        return "wrong weights"
    if any(has_weights_of(clf, other) for other in cut_short(case, clf, data)):
        return "right until interrupted"
    return "wrong: weights of no moment of the training"


def local(case: Case) -> DistributedMLPClassifier:
    return DistributedMLPClassifier(**case.parameters, engine="local")


def cut_short(case: Case, clf: Any, data: Any) -> Iterator[Any]:
    """Yield what a fit in this process leaves, interrupted after as many steps.

    In the next step, or while the epoch is validated.
    """
    n_steps = clf._optimizer_state.n_steps
    n_epochs = len(clf.loss_curve_)
    for name, n_calls in (("training_step", n_steps), ("predict_blocks", n_epochs - 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, name, InterruptAfter(getattr(loop, name), n_calls))
            yield local(case).fit(*data)


def has_weights_of(one: Any, other: Any) -> bool:
    return all(
        np.allclose(mine, theirs, rtol=1e-6, atol=1e-9)
        for name in ("coefs_", "intercepts_")
        for mine, theirs in zip(getattr(one, name), getattr(other, name), strict=True)
    )


class Memory:
    """Resident bytes of processes after each fit."""

    def __init__(self) -> None:
        self._sizes: dict[str, list[int]] = defaultdict(list)

    def look(self, client: Client) -> None:
        gc.collect()
        pids = client.run(os.getpid)
        for worker, pid in [("client and scheduler", os.getpid()), *pids.items()]:
            name = f"{worker}, process {pid}"
            self._sizes[name].append(psutil.Process(pid).memory_info().rss)

    def check(self) -> None:
        """Print how each process has grown since it was warm; fail if by too much."""
        for name, sizes in self._sizes.items():
            if len(sizes) < 2 * WARM_UP:
                continue
            before = median(sizes[WARM_UP : WARM_UP + 5])
            growth = median(sizes[-5:]) - before
            show(
                f"{name}: {before / 2**20:.0f} MiB after {WARM_UP} fits, "
                f"{growth / 2**20:+.1f} after {len(sizes)}"
            )
            assert growth < ALLOWANCE, name


def test_every_fit_ends_as_it_should_and_leaves_nothing(digits, capsys):
    outcomes, memory = Counter(), Memory()
    with (
        capsys.disabled(),
        # What Dask remembers of the past grows up to this.
        dask.config.set({"distributed.admin.low-level-log-length": 1000}),
        LocalCluster(
            n_workers=3,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        try:
            for seed in range(FIRST_SEED, FIRST_SEED + N_FITS):
                case = Case.drawn(seed)
                outcomes[case.fault, end_of(client, case, digits)] += 1
                assert_nothing_left(client, within_s=WITHIN_S)
                memory.look(client)
        finally:
            for (fault, outcome), number in sorted(outcomes.items()):
                show(f"{fault}: {outcome}: {number}")
        memory.check()
    assert not [end for end in outcomes if end[1].startswith("wrong")]


def end_of(client: Client, case: Case, data: Any) -> str:
    """Fit under the fault of a case; return how it ended."""
    remember(client)
    clf = DistributedMLPClassifier(
        **case.parameters,
        client=client,
        engine="peers",
        n_workers=case.n_workers,
        parameter_threshold=0,
    )
    begun = time.monotonic()
    fit = suffered(client, case, lambda: clf.fit(*data))
    seconds = time.monotonic() - begun
    outcome = judged(case, clf, data, fit.exception())
    show(f"{case}: {outcome}, {seconds:.1f} s")
    return outcome
