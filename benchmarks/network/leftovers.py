"""Name what belongs to a lab, so that nothing of it stays, and remove it."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

PREFIX = "skdistmlp-lab"

END_S = 10.0
"""For killed processes to be gone; one that waits for a disk may take a moment."""

_OWNED = re.compile(rf"({PREFIX}-(\d+)-(\d+)-\d+)(-\w+)?")
_numbers = itertools.count()


def new_lab_name() -> str:
    """Return a name that no other lab has, and that tells which process owns it.

    A process is told by its number and by when it started: numbers are used again.
    """
    pid = os.getpid()
    return f"{PREFIX}-{pid}-{_started_at(pid)}-{next(_numbers)}"


def remove_leftovers() -> list[str]:
    """Remove the labs of processes that have ended, such as by SIGKILL.

    Returns
    -------
    list of str
        Names of these labs.
    """
    labs: set[str] = set()
    for name in [*namespaces(), *(path.name for path in _folders())]:
        owned = _OWNED.fullmatch(name)
        if owned and _started_at(int(owned[2])) != int(owned[3]):
            labs.add(owned[1])
    for lab in labs:
        remove(lab)
    return sorted(labs)


def remove(lab: str) -> None:
    """Kill all processes of a lab, and remove its namespaces and its folder.

    The system is asked what there is to remove, so it makes no difference how far the
    lab was built, or whether somebody else removes it at the same time. The bridge and
    the cables end with their namespaces.
    """
    for namespace in (name for name in namespaces() if name.startswith(f"{lab}-")):
        _kill_processes(namespace)
        _ip("netns", "delete", namespace)
    shutil.rmtree(folder(lab), ignore_errors=True)


def namespaces() -> list[str]:
    """Return the names of the network namespaces of all labs."""
    # A line may go on with " (id: 3)".
    names = (line.split()[0] for line in _ip("netns", "list").splitlines())
    return [name for name in names if _OWNED.fullmatch(name)]


def folder(lab: str) -> Path:
    """Return where a lab has its files."""
    return Path(tempfile.gettempdir(), lab)


def _folders() -> Iterable[Path]:
    return Path(tempfile.gettempdir()).glob(f"{PREFIX}-*")


def _kill_processes(namespace: str) -> None:
    """Kill what runs in a namespace, and what it may start meanwhile."""
    deadline = time.monotonic() + END_S
    while pids := _ip("netns", "pids", namespace).split():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)


def _started_at(pid: int) -> int | None:
    """Return when a process started, in ticks since boot, or None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # After the name in parentheses, which may contain anything, come the state as
    # field 3 and the start as field 22.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def output(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end: Ctrl-C in a terminal does not reach it."""
    return subprocess.run(
        command, capture_output=True, text=True, check=False, start_new_session=True
    )


def _ip(*arguments: str) -> str:
    """Return what `ip` prints; it fails for what is gone already."""
    return output(["ip", *arguments]).stdout
