"""Write the page on faults from the results of the fault tests."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.faults.fits import FitOutcome

PHASES_TABLE, CALLS_TABLE = "Faults and phases", "Faults around a call"
"""Titles of two tables."""

INTRODUCTION = Path(__file__).with_name("introduction.md")


@dataclass
class Cell:
    """What is expected and observed for one fault in one phase."""

    table: str
    fault: str
    phase: str
    expected: str
    within_s: float
    outcome: FitOutcome | None = None
    seconds: float = 0.0
    failure: str = ""
    remark: str = ""

    def note(self, outcome: FitOutcome, seconds: float) -> None:
        """Record how the fit ended."""
        self.outcome, self.seconds = outcome, seconds
        if outcome.recoveries:
            epochs = [str(recovery.n_iter) for recovery in outcome.recoveries]
            kinds = {recovery.kind for recovery in outcome.recoveries} - {"lost"}
            self.remark = f"resumed from epoch {', then '.join(epochs)}"
            if kinds:
                self.remark += f" ({', '.join(sorted(kinds))})"

    def __str__(self) -> str:
        expected = f"{self.expected} ≤ {self.within_s:.0f} s"
        if self.outcome is None:
            return f"{expected}<br>**no end**"
        if self.failure:
            failure = _shortened(self.failure)
            return f"{expected}<br>**{self.outcome.name}**: {failure:.80}"
        text = f"{expected}<br>seen: {self.seconds:.1f} s"
        return f"{text}<br>{self.remark}" if self.remark else text


@dataclass(frozen=True)
class Table:
    """A table of the page, apart from its cells.

    Attributes
    ----------
    title : str
        Its heading.
    phases : sequence of str
        Columns.
    impossible : mapping
        By fault and phase, the reason why it cannot occur. Its faults are the rows.
    text : str
        What it says above the table.
    """

    title: str
    phases: Sequence[str]
    impossible: Mapping[str, Mapping[str, str]]
    text: str = ""


class FaultsPage:
    """The tables whose cells the tests fill in."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, str], Cell] = {}
        self.lines: list[str] = []

    @contextmanager
    def cell(self, cell: Cell) -> Iterator[None]:
        """Add a cell; record the failure of its test."""
        self._cells[cell.table, cell.fault, cell.phase] = cell
        try:
            yield
        except BaseException as error:
            cell.failure = str(error).partition("\n")[0] or "it failed"
            raise

    def write(self, path: Path, tables: Sequence[Table]) -> None:
        """Write the page.

        Raises
        ------
        KeyError
            If the test of a cell was not run.
        """
        lines = [INTRODUCTION.read_text()]
        for table in tables:
            lines += [f"## {table.title}", ""]
            lines += [table.text, ""] if table.text else []
            lines.append(f"| | {' | '.join(table.phases)} |")
            lines.append(f"| --- |{' --- |' * len(table.phases)}")
            for fault, reasons in table.impossible.items():
                cells = [
                    f"-: {reasons[phase]}"
                    if phase in reasons
                    else str(self._cells[table.title, fault, phase])
                    for phase in table.phases
                ]
                lines.append(f"| **{fault}** | {' | '.join(cells)} |")
            lines.append("")
        lines += [*self.lines, "", "## What the errors say", ""]
        lines += ["Each message once, with the first fault and phase that caused it."]
        lines += ["", "```text", *self._messages(), "```", ""]
        path.write_text("\n".join(lines))

    def _messages(self) -> list[str]:
        """Return every message once."""
        lines, known = [], set()
        for cell in self._cells.values():
            if cell.outcome is None or cell.outcome.error is None:
                continue
            message = _shortened(f"{cell.outcome.name}: {cell.outcome.text}")
            # The same message with other numbers is not listed again.
            if (alike := re.sub(r"\d+", "0", message)) in known:
                continue
            known.add(alike)
            lines += [f"{cell.fault}, {cell.phase}:", *message.split("\n"), ""]
        return lines


def _shortened(text: str) -> str:
    return re.sub(r"tcp://[\d.]+:\d+", "tcp://...", text)
