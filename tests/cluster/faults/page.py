"""The page of faults, written by the tests of faults."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.faults.gates import Seen

INTRODUCTION = Path(__file__).with_name("introduction.md")


@dataclass
class Cell:
    """What is seen of one fault in one phase, beside what is expected."""

    fault: str
    phase: str
    expected: str
    within_s: float
    seen: Seen | None = None
    seconds: float = 0.0
    failure: str = ""
    remark: str = ""

    def note(self, seen: Seen, seconds: float) -> None:
        """Take down what came of the fit."""
        self.seen, self.seconds = seen, seconds

    def __str__(self) -> str:
        expected = f"{self.expected} ≤ {self.within_s:.0f} s"
        if self.seen is None:
            return f"{expected}<br>**no end**"
        if self.failure:
            failure = _shortened(self.failure)
            return f"{expected}<br>**{self.seen.name}**: {failure:.80}"
        seen = f"{expected}<br>seen: {self.seconds:.1f} s"
        return f"{seen}<br>{self.remark}" if self.remark else seen


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
        except BaseException as error:
            cell.failure = str(error).partition("\n")[0] or "it failed"
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
            "Each message once, with the first fault and phase that it was seen in."
        ]
        lines += ["", "```text", *self._messages(), "```", ""]
        path.write_text("\n".join(lines))

    def _messages(self) -> list[str]:
        """Return every message once."""
        lines, known = [], set()
        for cell in self._cells.values():
            if cell.seen is None or cell.seen.error is None:
                continue
            message = _shortened(f"{cell.seen.name}: {cell.seen.text}")
            # The same with other numbers is no news.
            if (alike := re.sub(r"\d+", "0", message)) in known:
                continue
            known.add(alike)
            lines += [f"{cell.fault}, {cell.phase}:", *message.split("\n"), ""]
        return lines


def _shortened(text: str) -> str:
    return re.sub(r"tcp://[\d.]+:\d+", "tcp://...", text)
