"""What a fit was expected to take on each plan, and what it took."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from skdistmlp.planning.left_out import LeftOut, left_out_lines
from skdistmlp.public import public

MISS = 1.5
"""Ratio of what a step took to what was expected, or the reverse, from which the
machines are no longer what they were when they were measured."""


class ForecastRow(NamedTuple):
    """What a fit is expected to take on one plan.

    Attributes
    ----------
    engine : str
        The engine.
    n_workers, n_replicas : int
        Workers, and replicas among them; no worker for a fit in this process.
    step_s : float
        Seconds per step.
    epoch_s : float
        Seconds per epoch, or per iteration of "lbfgs".
    fit_s : float
        Seconds of a fit that does not stop early.
    bytes_held : int
        Bytes that the fullest worker holds in memory at most, copies of the state among
        them, or this process if it trains.
    bytes_exchanged : int
        Bytes that all workers together send in a step.
    messages_sent : int
        Messages that the first worker sends in a step; no other one sends more.
    bytes_on_disk : int
        Bytes of rows that the fullest worker has in a file.
    fixed_s : float
        Seconds of `fit_s` that are not those of steps: to begin and end a fit on
        workers, and to send rows and parameters.
    """

    engine: str
    n_workers: int
    n_replicas: int
    step_s: float
    epoch_s: float
    fit_s: float
    bytes_held: int
    bytes_exchanged: int
    messages_sent: int = 0
    bytes_on_disk: int = 0
    fixed_s: float = 0.0

    @property
    def name(self) -> str:
        """The plan in a few words."""
        if self.n_workers == 0:
            return "this process"
        name = f"{self.engine} on {self.n_workers}"
        if self.n_workers > 1:
            n_shards = self.n_workers // self.n_replicas
            name += f" ({self.n_replicas} x {n_shards})"
        return name


@public
@dataclass(frozen=True)
class Forecast:
    """What a fit is expected to take on the plans that it could follow.

    A plan that was chosen by measurements has one as `forecast`. Print it to read it.

    Parameters
    ----------
    rows : tuple of ForecastRow
        The plan that was chosen first, then the others, the fastest first.
    latency_s : float or None
        Seconds of the smallest exchange between the workers of the first plan that has
        several; None if none has.
    bits_per_s : float or None
        Rate of the largest exchanges, in each direction.
    step_s : float or None
        Seconds per step that the fit took; None before it.
    n_steps : int
        How many steps it took.
    left_out : tuple of LeftOut
        Workers that the first plan does without since they, or their links, are slow,
        or since they are short of memory and were not measured: `worker` is the address
        of each, `why` is "worker", "link" or "memory", and `times` is how many times as
        slow as the others it is.
    """

    rows: tuple[ForecastRow, ...]
    latency_s: float | None = None
    bits_per_s: float | None = None
    step_s: float | None = None
    n_steps: int = 0
    left_out: tuple[LeftOut, ...] = ()

    def __str__(self) -> str:
        return "\n".join([*self.lines(), *left_out_lines(self.left_out)])

    def lines(self) -> list[str]:
        """Return what a printed plan says of it, besides which workers are left out.

        The reason of the plan says that.

        Returns
        -------
        list of str
            Lines.
        """
        first, *others = self.rows
        took = "" if self.step_s is None else f"; it took {_ms(self.step_s)} per step"
        lines = [
            f"expected: {_ms(first.step_s)} per step, {_s(first.epoch_s)} per epoch, "
            f"{_s(first.fit_s)} per fit{took}"
        ]
        if others:
            nearest = min(others, key=lambda row: row.fit_s)
            # It is the next best by the time of the fit, and may have faster steps.
            lines.append(
                f"next best: {nearest.name}, {_ms(nearest.step_s)} per step, "
                f"{_s(nearest.fit_s)} per fit"
            )
        return [*lines, *self.link_lines()]

    def link_lines(self) -> list[str]:
        """Return what a printed plan says of the link between its workers.

        Returns
        -------
        list of str
            A line, or none if no plan has several workers.
        """
        if self.latency_s is None or self.bits_per_s is None:
            return []
        return [
            f"the link between workers: latency {_ms(self.latency_s)}, "
            f"{self.bits_per_s / 1e9:.3g} Gbit/s"
        ]

    def after(self, step_s: float, n_steps: int) -> "Forecast":
        """Return the forecast with what a step took.

        Parameters
        ----------
        step_s : float
            Seconds, in the mean.
        n_steps : int
            Number of steps.

        Returns
        -------
        Forecast
            A new one.
        """
        return replace(self, step_s=step_s, n_steps=n_steps)

    @property
    def missed_s(self) -> float:
        """Seconds of steps that took far more or less than expected; 0 if none did.

        As they were or were expected, whichever is more.
        """
        if self.step_s is None:
            return 0.0
        expected_s = max(self.rows[0].step_s, 1e-9)
        if 1 / MISS <= self.step_s / expected_s <= MISS:
            return 0.0
        return self.n_steps * max(self.step_s, expected_s)

    def __getstate__(self) -> dict[str, Any]:
        """Return plain data, which other versions can read."""
        left_out = [tuple(each) for each in self.left_out]
        return vars(self) | {
            "rows": [tuple(row) for row in self.rows],
            "left_out": left_out,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Later versions may have added fields to their ends.
        n_known = len(ForecastRow._fields)
        rows = tuple(ForecastRow(*row[:n_known]) for row in state["rows"])
        left_out = tuple(
            LeftOut(*each[: len(LeftOut._fields)]) for each in state.get("left_out", ())
        )
        # The attributes cannot be assigned: the forecast is frozen.
        vars(self).update(state, rows=rows, left_out=left_out)

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Self:
        """Return a forecast from plain data.

        Parameters
        ----------
        state : dict
            What `__getstate__` returned.

        Returns
        -------
        Forecast
            The same.
        """
        forecast = cls.__new__(cls)
        forecast.__setstate__(state)
        return forecast


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _s(seconds: float) -> str:
    # Not 1.23e+03 s.
    return f"{seconds:,.0f} s" if seconds >= 999.5 else f"{seconds:.3g} s"


def best_per_number(rows: Sequence[ForecastRow]) -> list[ForecastRow]:
    """Return the fastest row of each number of workers, in ascending order."""
    fastest: dict[int, ForecastRow] = {}
    for row in rows:
        known = fastest.get(row.n_workers)
        if known is None or row.fit_s < known.fit_s:
            fastest[row.n_workers] = row
    return [fastest[number] for number in sorted(fastest)]
