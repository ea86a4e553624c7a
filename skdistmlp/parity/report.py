"""The differences between plans, as a table that can be asserted on."""

from dataclasses import dataclass
from typing import Any

from skdistmlp.exceptions import counted
from skdistmlp.public import public


@public
@dataclass(frozen=True)
class ParityRow:
    """How far one plan is from what it was compared with.

    Parameters
    ----------
    engine : {"local", "futures", "peers"}
        The engine that trained.
    n_workers : int
        Number of workers that shared the network.
    reference : str
        What the plan was compared with: "scikit-learn" or "local".
    parameters : float
        Largest difference of a layer's parameters: the norm of the difference, divided
        by the norm of the layer.
    loss_curve : float
        Largest difference of a loss, divided by the largest loss of the curve.
    predictions : float
        Largest difference of a probability; of a regressor, largest difference of a
        prediction, divided by the largest of its output.
    tolerance : float
        The largest difference that passes.
    error : str or None
        What went wrong, if this plan could not be compared; its differences are then
        infinite.
    n_replicas : int
        Number of replicas of the network among these workers.
    """

    engine: str
    n_workers: int
    reference: str
    parameters: float
    loss_curve: float
    predictions: float
    tolerance: float
    error: str | None = None
    n_replicas: int = 1

    @property
    def passed(self) -> bool:
        """Whether no difference exceeds the tolerance."""
        differences = (self.parameters, self.loss_curve, self.predictions)
        # NaN compares as False, and fails.
        return self.error is None and all(d <= self.tolerance for d in differences)


def _grid(row: ParityRow) -> str:
    workers = counted(row.n_workers, "worker")
    return f"{workers} in {row.n_replicas} replicas" if row.n_replicas > 1 else workers


def _cells(row: ParityRow) -> tuple[str, ...]:
    differences = (row.parameters, row.loss_curve, row.predictions)
    return (
        row.engine,
        str(row.n_workers),
        str(row.n_replicas),
        row.reference,
        *("-" if row.error else f"{d:.1e}" for d in differences),
        f"{row.tolerance:.0e}",
        "yes" if row.passed else "NO",
    )


_HEADER = (
    "engine",
    "workers",
    "replicas",
    "compared with",
    "parameters",
    "loss curve",
    "predictions",
    "tolerance",
    "passed",
)


@public
@dataclass(frozen=True)
class ParityReport:
    """What `check_parity` has found: one row per engine and grid of workers.

    Print it to read the table. It is true if every plan passed, so that
    ``assert report`` does what it says, and the message is the table.

    Parameters
    ----------
    rows : tuple of ParityRow
        One per plan that was compared.
    dtype : {"float64", "float32"}
        In which the network was trained.
    n_epochs : int
        Number of epochs, or of iterations of "lbfgs", at most.
    random_state : int
        The seed of every fit.
    without_counterpart : tuple of str
        Parameters, with their values, that scikit-learn has no counterpart for; if
        there are any, the plans were compared with "local" instead.
    notes : tuple of str
        What else to know of the check.

    See Also
    --------
    check_parity : Train with every plan and compare.
    """

    rows: tuple[ParityRow, ...]
    dtype: str
    n_epochs: int
    random_state: int
    without_counterpart: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every plan passed; False if none was compared."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    def __bool__(self) -> bool:
        return self.passed

    def raise_if_failed(self) -> None:
        """Raise an error with the table in its message unless every plan passed.

        Raises
        ------
        AssertionError
            If a plan differs by more than the tolerance, or could not be compared.
        """
        if self.passed:
            return
        failed = sum(not row.passed for row in self.rows)
        raise AssertionError(
            f"{failed} of {counted(len(self.rows), 'plan')} failed the parity check, "
            f"expected differences up to the tolerance:\n\n{self}\n\n"
            f"Check again in float64 and with fewer epochs: rounding shrinks, an error "
            f"does not. If it does not, please report it with this table."
        )

    def __str__(self) -> str:
        table = [_HEADER, *(_cells(row) for row in self.rows)]
        if all(row.n_replicas == 1 for row in self.rows):
            at = _HEADER.index("replicas")
            table = [(*cells[:at], *cells[at + 1 :]) for cells in table]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        texts = [table[0].index(name) for name in ("engine", "compared with", "passed")]
        lines = [
            f"{counted(self.n_epochs, 'epoch')} in {self.dtype}, "
            f"random_state={self.random_state}"
        ]
        for cells in table:
            padded = (
                cell.ljust(width) if i in texts else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            lines.append("  ".join(padded).rstrip())
        if self.without_counterpart:
            named = ", ".join(self.without_counterpart)
            lines.append(
                f"Compared with local, since scikit-learn has no counterpart of {named}"
            )
        lines += self.notes
        lines += [
            f"{row.engine} on {_grid(row)}: {row.error}"
            for row in self.rows
            if row.error
        ]
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show what `print` does at the end of a notebook's cell."""
        printer.text(str(self))
