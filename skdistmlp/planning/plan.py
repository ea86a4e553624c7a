"""Which engine trains or predicts, where, and why."""

import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from skdistmlp.exceptions import counted
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import COPIES, RowForm, RowHolding, RowRange
from skdistmlp.parallel.split import NetworkSplit, count_parameters
from skdistmlp.planning.copies import bytes_of_copies, bytes_of_copies_here
from skdistmlp.planning.cost import (
    StepCost,
    bytes_held_by_peers,
    bytes_held_by_tasks,
    features_held,
)
from skdistmlp.planning.forecast import Forecast
from skdistmlp.planning.recovery import Recovery
from skdistmlp.planning.traffic import (
    bytes_exchanged,
    bytes_exchanged_by_tasks,
    bytes_gathered,
)
from skdistmlp.planning.worker_lines import worker_lines
from skdistmlp.public import public
from skdistmlp.settings import SETTINGS, keeps_copies
from skdistmlp.settings import parameter_threshold as configured_threshold


class RowCost(NamedTuple):
    """What it costs to hold rows in one form.

    Attributes
    ----------
    bytes_held : int
        Bytes of features that each worker has, at most.
    bytes_gathered : int
        Bytes of features that all workers together send in a step.
    """

    bytes_held: int
    bytes_gathered: int


class RowCosts(NamedTuple):
    """What it costs to hold rows in either form.

    Attributes
    ----------
    copies, once : RowCost
        A copy per shard, and each row on one worker.
    """

    copies: RowCost
    once: RowCost


@public
@dataclass(frozen=True)
class Plan:
    """How a network is trained or used to predict: by which engine, where, and why.

    A fitted estimator has the plan of its training as `plan_`, and
    `plan_predict` returns that of a prediction. Print a plan to read it.

    Parameters
    ----------
    engine : {"local", "futures", "peers"}
        The engine that runs: "local" in this process, the others on workers.
    split : NetworkSplit
        The layers, and the neurons that each shard holds.
    workers : tuple of str
        Address of the worker that holds shard 0, shard 1, and so on, of the first
        replica, then of the others. Empty if the network stays in this process, or if
        Dask chooses the workers later.
    reason : str
        Why this engine was chosen.
    bytes_held : tuple of int
        Bytes that each worker holds while "peers" or "futures" trains, at most, with
        copies of the state; empty otherwise.
    bytes_exchanged : int
        Bytes that the shards send each other in a step of training; 0 in predictions.
    split_by : {"neurons", "rows"}
        What the workers share. By rows, which only predictions are, each worker has
        the whole network and gets some of the rows.
    n_replicas : int
        Number of replicas of the network in training, each of which computes some rows
        of every mini-batch.
    rows : RowHolding
        Which features each worker has while "peers" trains, and whether in a file: a
        copy of those of its replica's rows ("copies"); some of these, each on one of
        the replica's workers ("once"); or those of all rows, where a score needs them
        ("all").
    features_held : int
        Bytes of features that each worker of "peers" or "futures" has, at most.
    row_ranges : tuple of RowRange
        Which rows each worker of "peers" has, where they stayed together in blocks. By
        default they are dealt out to the replicas in turn. Which replica computes a row
        decides in which order gradients are added up, and so the last bits.
    row_costs : RowCosts or None
        What the first two forms cost, where they differ.
    forecast : Forecast or None
        What the fit was expected to take on this plan and on others, if that decided.
    recoveries : tuple of Recovery
        Changes of workers in the middle of the fit; it ended on this plan.
    fixed : tuple of (int or None, int or None)
        Numbers of workers and of replicas that the user has given.
    bytes_of_copies : tuple of int
        Those of `bytes_held` that are copies of the state of its own shard and of
        another one, from which the fit recovers if a worker is lost; empty if there
        are none.
    copies_here : int
        Bytes of such copies in this process, which has them while "futures" trains.
    copies_missing : str
        Why there are none, if the workers have no room for them.

    See Also
    --------
    NetworkSplit : Which neurons each shard holds.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdistmlp import DistributedMLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = DistributedMLPClassifier(engine="local", random_state=0).fit(X / 16, y)
    >>> print(clf.plan_)
    local: engine='local' was asked for
    network 64-100-10, 7,510 parameters, 1 shard
    """

    engine: str
    split: NetworkSplit
    workers: tuple[str, ...]
    reason: str
    bytes_held: tuple[int, ...] = ()
    bytes_exchanged: int = 0
    split_by: Literal["neurons", "rows"] = "neurons"
    n_replicas: int = 1
    rows: RowHolding = field(default_factory=RowHolding)
    features_held: int = 0
    row_ranges: tuple[RowRange, ...] = ()
    row_costs: RowCosts | None = None
    forecast: Forecast | None = None
    recoveries: tuple[Recovery, ...] = ()
    fixed: tuple[int | None, int | None] = (None, None)
    bytes_of_copies: tuple[int, ...] = ()
    copies_here: int = 0
    copies_missing: str = ""

    @property
    def n_shards(self) -> int:
        """Number of shards of each replica; 1 if the network is whole."""
        return self.split.n_shards

    @property
    def n_workers(self) -> int:
        """Number of processes that train: shards times replicas."""
        return self.grid.n_ranks

    @property
    def grid(self) -> Grid:
        """The processes that train, as a grid."""
        return Grid(self.split.n_shards, self.n_replicas)

    @property
    def features_in_memory(self) -> int:
        """Bytes of features that each worker has in memory, at most."""
        return 0 if self.rows.on_disk else self.features_held

    @property
    def bytes_needed(self) -> tuple[int, ...]:
        """Bytes that each worker holds at most without copies: a plan needs these."""
        if not self.bytes_of_copies:
            return self.bytes_held
        both = zip(self.bytes_held, self.bytes_of_copies, strict=True)
        return tuple(held - copies for held, copies in both)

    def without_copies(self, why: str) -> "Plan":
        """Return the plan of a fit that keeps no copies of its state.

        Parameters
        ----------
        why : str
            What is missing for them.

        Returns
        -------
        Plan
            A new one.
        """
        return replace(
            self,
            bytes_held=self.bytes_needed,
            bytes_of_copies=(),
            copies_missing=why,
        )

    def __str__(self) -> str:
        by_rows = self.split_by == "rows"
        engine = f"{self.engine}, split by rows" if by_rows else self.engine
        layer_units = "-".join(str(units) for units in self.split.layer_units)
        replicas = ""
        if self.n_replicas > 1:
            replicas = f" in each of {self.n_replicas} replicas"
        lines = [
            f"{engine}: {self.reason}",
            f"network {layer_units}, {self.split.n_parameters:,} parameters, "
            f"{counted(self.n_shards, 'shard')}{replicas}",
        ]
        if self.bytes_exchanged:
            lines.append(f"a step exchanges {self.bytes_exchanged:,} bytes")
        if rows := self._rows_held():
            lines.append(rows)
        if self.rows.shares:
            lines.append(
                f"of every {sum(self.rows.shares)} rows the replicas compute "
                f"{', '.join(map(str, self.rows.shares))}"
            )
        if self.row_ranges:
            ranges = counted(len(self.row_ranges), "range")
            lines.append(
                f"rows stay together in {ranges}: see the attribute row_ranges"
            )
        if copies := self._copies_kept():
            lines.append(copies)
        if self.forecast is not None:
            lines += self.forecast.lines()
        lines += map(str, self.recoveries)
        return "\n".join([*lines, *worker_lines(self)])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show what `print` does at the end of a notebook's cell."""
        printer.text(str(self))

    def __getstate__(self) -> dict[str, Any]:
        """Return plain data, which other versions can read."""
        costs = self.row_costs
        return vars(self) | {
            "rows": astuple(self.rows),
            "row_ranges": [astuple(part) for part in self.row_ranges],
            "row_costs": None if costs is None else [tuple(cost) for cost in costs],
            "forecast": self.forecast and self.forecast.__getstate__(),
            "recoveries": [astuple(recovery) for recovery in self.recoveries],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Plans of versions that did not have them lack the last fields.
        rows, costs = RowHolding(*state.get("rows", ())), state.get("row_costs")
        ranges = tuple(RowRange(*part) for part in state.get("row_ranges", ()))
        if costs is not None:
            costs = RowCosts(*(RowCost(*cost) for cost in costs))
        # Later versions may have added fields to their ends.
        n_known = len(fields(Recovery))
        recoveries = tuple(
            Recovery(*each[:n_known]) for each in state.get("recoveries", ())
        )
        forecast = state.get("forecast")
        if forecast is not None:
            forecast = Forecast.of_state(forecast)
        # The attributes cannot be assigned: the plan is frozen.
        vars(self).update(state, rows=rows, row_ranges=ranges, row_costs=costs)
        vars(self).update(forecast=forecast, recoveries=recoveries)

    def _copies_kept(self) -> str | None:
        """Say what copies of the state take, or why there are none."""
        if self.copies_missing:
            return (
                f"no copies of the state: {self.copies_missing}. If a worker is lost, "
                f"the fit starts over, or resumes from its checkpoint"
            )
        if self.bytes_of_copies:
            most = f"{max(self.bytes_of_copies):,} bytes per worker"
        elif self.copies_here:
            most = f"{self.copies_here:,} bytes in this process"
        else:
            return None
        return f"copies of the state, from which the fit recovers: up to {most}"

    def _rows_held(self) -> str | None:
        """Say who has which features, and what the other form would cost."""
        if self.row_costs is None:
            if not self.rows.on_disk:
                return None
            return f"rows in a file: {self.features_held:,} bytes on each worker"
        copies, once = self.row_costs
        of_copies = f"{copies.bytes_held:,} bytes of features per worker"
        of_once = (
            f"{once.bytes_held:,} bytes of features per worker"
            f", {once.bytes_gathered:,} more exchanged in a step"
        )
        where = " in a file" if self.rows.on_disk else ""
        if self.rows.form == "once":
            return (
                f"each row on one worker{where}: {of_once} (a copy per shard: "
                f"{of_copies})"
            )
        return f"a copy of the rows per shard: {of_copies} (each row once: {of_once})"


def local_plan(layer_units: Sequence[int], reason: str) -> Plan:
    """Return the plan of one shard in this process."""
    return Plan("local", NetworkSplit.even(layer_units, 1), (), reason)


Threshold: TypeAlias = int | Literal["auto"] | None
"""What `parameter_threshold` may be."""


def reason_to_stay_local(
    layer_units: Sequence[int],
    engine: str,
    parameter_threshold: Threshold,
    read_settings: bool = True,
) -> str | None:
    """Return why no cluster needs to be looked for, None if one does.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    engine : {"auto", "local", "futures", "peers"}
        The engine that the user asked for.
    parameter_threshold : int, "auto" or None
        Networks with fewer parameters stay in this process. None for the setting if
        `engine` is "auto", and for 0 if the user named an engine; "auto" for none.
    read_settings : bool
        Whether to import Dask to read its configuration. If False, and Dask is not
        imported yet, the setting has its default.
    """
    if engine == "local":
        return "engine='local' was asked for"
    if parameter_threshold == "auto":
        return None
    threshold, origin = parameter_threshold, "parameter_threshold"
    if threshold is None:
        if engine != "auto":
            return None
        setting = SETTINGS["parameter-threshold"]
        threshold, origin = int(setting.default), f"default of {setting.key}"
        if read_settings or "dask" in sys.modules:
            threshold, origin = configured_threshold(), f"setting {setting.key}"
    n_parameters = count_parameters(layer_units)
    if n_parameters < threshold:
        return (
            f"{n_parameters:,} parameters are fewer than the threshold of "
            f"{threshold:,} ({origin})"
        )
    return None


def plan_training(
    layer_units: Sequence[int],
    engine: str,
    workers: Sequence[str],
    cost: StepCost,
    shares: Sequence[float] | None = None,
    n_replicas: int = 1,
    rows: RowHolding = COPIES,
) -> Plan:
    """Choose the engine to train a network that a cluster may share.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    engine : str
        The engine that the user asked for, or "auto".
    workers : sequence of str
        Addresses of the workers that may share the network.
    cost : StepCost
        What a step costs.
    shares : sequence of float, optional
        How fast each worker is, such as its number of threads: it holds neurons in
        proportion. By default all are equal.
    n_replicas : int
        Number of replicas, which divides that of the workers.
    rows : RowHolding
        Which features each worker of "peers" is to have, unless it needs all.

    Returns
    -------
    Plan
        Of the engine that was asked for; "auto" takes "peers".
    """
    split = NetworkSplit.even(layer_units, len(workers) // n_replicas)
    grid = Grid(split.n_shards, n_replicas)
    used = tuple(workers[: grid.n_ranks])
    if shares is not None:
        # A shard is computed as fast as in the replica where it has the least.
        of_shards = [
            min(shares[rank] for rank in grid.along("replicas", shard))
            for shard in range(split.n_shards)
        ]
        # Of equal ones only the rounding of their common value would be left, which
        # differs between measurements.
        if len(set(of_shards)) > 1:
            split = NetworkSplit.by_shares(layer_units, of_shards)
    reason = f"engine={engine!r} was asked for"
    plan = Plan(engine, split, used, reason, n_replicas=n_replicas)
    if engine == "auto":
        reason = (
            f"{split.n_parameters:,} parameters reach the threshold, and there are "
            f"workers"
        )
        plan = replace(plan, engine="peers", reason=reason)
    if plan.engine == "futures":
        layouts = [split.layout(shard) for shard in range(split.n_shards)]
        exchanged = bytes_exchanged_by_tasks(split, cost)
        # Each worker has all of them.
        return replace(
            plan,
            bytes_held=tuple(bytes_held_by_tasks(layout, cost) for layout in layouts),
            bytes_exchanged=exchanged,
            features_held=cost.feature_bytes,
            copies_here=bytes_of_copies_here(split, cost) if keeps_copies() else 0,
        )
    if plan.engine != "peers":
        return plan
    if cost.needs_all_features:
        rows = replace(rows, form="all")
    row_costs = None
    if split.n_shards > 1 and not cost.needs_all_features:
        of_copies, of_once = (
            features_held(cost, split.n_shards, n_replicas, replace(rows, form=form))
            for form in ROW_FORMS
        )
        row_costs = RowCosts(
            RowCost(of_copies, 0), RowCost(of_once, bytes_gathered(split, cost))
        )
    held = bytes_held_by_peers(split, cost, n_replicas, rows)
    copies = bytes_of_copies(split, cost, n_replicas) if keeps_copies() else ()
    if copies:
        held = tuple(map(sum, zip(held, copies, strict=True)))
    return replace(
        plan,
        bytes_held=held,
        bytes_of_copies=copies,
        bytes_exchanged=bytes_exchanged(split, cost, n_replicas, rows),
        rows=rows,
        features_held=features_held(cost, split.n_shards, n_replicas, rows),
        row_costs=row_costs,
    )


ROW_FORMS: tuple[RowForm, RowForm] = ("copies", "once")
"""The forms to choose from, where no score needs all features."""
