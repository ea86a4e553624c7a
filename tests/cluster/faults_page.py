"""The page of faults, written by the tests of faults."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.striking import Seen

INTRODUCTION = Path(__file__).with_name("faults_introduction.md")


@dataclass
class Cell:
    """What is seen of one fault in one phase, beside what is expected."""

    fault: str
    phase: str
    expected: str
    seen: Seen | None = None
    seconds: float = 0.0
    failed: bool = False

    def note(self, seen: Seen, seconds: float) -> None:
        """Take down what came of the fit."""
        self.seen, self.seconds = seen, seconds

    def __str__(self) -> str:
        if self.seen is None:
            return f"**no end** instead of {self.expected}"
        raised = self.seen.error is not None
        seen = self.seen.name if raised or self.failed else self.expected
        if self.failed:
            return f"**{seen}** instead of {self.expected}, or something is left"
        return f"{seen}, {self.seconds:.1f} s"


class FaultsPage:
    """Cells as the tests fill them."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], Cell] = {}
        self.lines: list[str] = []

    @contextmanager
    def cell(self, cell: Cell) -> Iterator[None]:
        """Enter a cell; take down if its test fails."""
        self._cells[cell.fault, cell.phase] = cell
        try:
            yield
        except BaseException:
            cell.failed = True
            raise

    def write(
        self,
        path: Path,
        phases: Sequence[str],
        impossible: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Write the page.

        Parameters
        ----------
        path : Path
            Where to.
        phases : sequence of str
            Columns.
        impossible : mapping
            By fault and phase, why it cannot occur.

        Raises
        ------
        KeyError
            If the test of a cell was not run.
        """
        lines = [
            INTRODUCTION.read_text(),
            "## Faults and phases",
            "",
            f"| | {' | '.join(phases)} |",
            f"| --- |{' --- |' * len(phases)}",
        ]
        for fault, reasons in impossible.items():
            cells = [
                f"-: {reasons[phase]}"
                if phase in reasons
                else str(self._cells[fault, phase])
                for phase in phases
            ]
            lines.append(f"| **{fault}** | {' | '.join(cells)} |")
        lines += ["", *self.lines, "", "## What the errors say", ""]
        lines += [
            "Addresses are shortened, and the phase in which it was seen is given."
        ]
        lines += ["", "```text", *self._messages(), "```", ""]
        path.write_text("\n".join(lines))

    def _messages(self) -> list[str]:
        """Return every message once, with the phases it was seen in."""
        lines = []
        for cell in self._cells.values():
            if cell.seen is None or cell.seen.error is None:
                continue
            text = re.sub(r"tcp://[\d.]+:\d+", "tcp://...", cell.seen.text)
            text = text.replace("\n", "\n    ")
            lines += [f"{cell.fault}, {cell.phase}:", f"  {cell.seen.name}: {text}"]
        return lines
