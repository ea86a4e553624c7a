"""Run commands as in a terminal, and interrupt them as there."""

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.support import WITHIN_S, wait_until

ROOT = Path(__file__).parents[1]


class Command:
    """A running program; its terminal shows stderr, but not stdout unless asked to.

    Parameters
    ----------
    process : Popen
        Starts a new session.
    terminal : int
        What it shows there can be read from this file descriptor.
    """

    def __init__(self, process: "subprocess.Popen[str]", terminal: int) -> None:
        self.shown = ""
        self._process = process
        self._terminal = terminal

    def wait_until_it_shows(self, pattern: str) -> None:
        """Read from its terminal until a pattern appears."""
        wait_until(lambda: self._read() and re.search(pattern, self.shown), pattern)

    def processes(self) -> list[str]:
        """Return the command lines of the program and its children that still run."""
        return [" ".join(process.cmdline()) for process in self._running()]

    def interrupt(self) -> None:
        """Press Ctrl-C, which the terminal sends to all of its processes."""
        os.write(self._terminal, b"\x03")

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and its output."""
        printed, _ = self._process.communicate(timeout=WITHIN_S)
        self._read()
        return self._process.returncode, printed

    def kill(self) -> None:
        """Kill all processes that are left of it."""
        for process in self._running():
            process.kill()
        self._process.communicate()

    def _running(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                is_its = os.getpgid(process.pid) == self._process.pid
                if is_its and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def _read(self) -> bool:
        while select.select([self._terminal], [], [], 0)[0]:
            try:
                self.shown += os.read(self._terminal, 4096).decode()
            except OSError:  # No process is left that could write.
                break
        return True


IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Makes stdin the terminal that controls this session, and runs Python."""


@contextmanager
def running(*arguments: Any, shows_stdout: bool = False) -> Iterator[Command]:
    """Run Python in a terminal; on exit, kill what is left of it."""
    terminal, its_side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *map(str, arguments)],
        stdin=its_side,
        stdout=its_side if shows_stdout else subprocess.PIPE,
        stderr=its_side,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(its_side)
    command = Command(process, terminal)
    try:
        yield command
    finally:
        command.kill()
        os.close(terminal)
