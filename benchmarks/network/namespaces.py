"""The lab: a driver and workers in network namespaces, joined by a bridge."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.network import leftovers
from benchmarks.network.interruptions import held
from benchmarks.network.links import Link
from benchmarks.network.probe import CONGESTION_CONTROL

ROOT = Path(__file__).parents[2]
"""The checkout, from which the processes of a lab import."""

TOOLS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "setpriv": "util-linux",
    "taskset": "util-linux",
}
"""Commands that a lab needs, and the packages that have them."""

IF_NOT_ORPHANED = 'test $PPID -eq "$0" && exec "$@"'
"""Start a command, unless its parent died before it had asked to die with it."""

CONGESTION_CONTROLS = ["cubic", "reno"]
"""What TCP uses in the lab: Linux's default, or its predecessor where that is not
permitted."""

DRIVER = "driver"
MAX_WORKERS = 200
"""Addresses that one byte can number, apart from the driver's."""


class LabError(RuntimeError):
    """A lab, or something that ran in it, failed."""


class LabUnavailableError(LabError):
    """Something is missing without which there can be no lab."""


class Lab:
    """Machines of one lab, and the links that they are joined by.

    Parameters
    ----------
    name : str
        Of the lab; see `leftovers.new_lab_name`.
    n_workers : int
        Number of workers.

    Attributes
    ----------
    workers : list of str
        Names of the workers' machines; the driver's is `DRIVER`.
    folder : Path
        For logs and the workers' files; it ends with the lab.
    processes : dict of str to subprocess.Popen
        What was started to run until the lab ends, by name.
    """

    def __init__(self, name: str, n_workers: int) -> None:
        self.name = name
        self.workers = [f"worker{number}" for number in range(n_workers)]
        self.folder = leftovers.folder(name)
        self.processes: dict[str, subprocess.Popen[str]] = {}

    @property
    def machines(self) -> list[str]:
        """Names of the driver's machine and of those of the workers."""
        return [DRIVER, *self.workers]

    def address(self, machine: str) -> str:
        """Return a machine's address; other labs have the same, and cannot reach it."""
        return f"10.77.0.{1 + self.machines.index(machine)}"

    def shape(self, link: Link) -> None:
        """Shape the links of all machines, in both directions, from now on."""
        for machine in self.machines:
            self._queue(self.namespace(machine), "eth0", link.uplink)
            self._queue(self.namespace("switch"), machine, link.downlink)

    def unplug(self, machine: str) -> None:
        """Have all packets from and to a machine dropped from now on.

        Its cable ends in nothing, but stays up: no process on any machine is told.
        """
        switch = self.namespace("switch")
        _run("ip", "-netns", switch, "link", "set", machine, "nomaster")

    def start(
        self,
        machine: str,
        arguments: Sequence[str],
        *,
        name: str,
        environment: Mapping[str, str],
        core: int | None = None,
        piped: bool = False,
    ) -> subprocess.Popen[str]:
        """Start Python on a machine, as a process that dies with this one.

        Parameters
        ----------
        machine : str
            Where to start it.
        arguments : sequence of str
            For Python.
        name : str
            Of the process; its messages go to a log of this name.
        environment : mapping
            Environment variables.
        core : int, optional
            The only core that it may use.
        piped : bool
            Whether stdin and stdout are pipes; otherwise stdout is in the log, too.

        Returns
        -------
        subprocess.Popen
            The process, which ends with the lab at the latest.
        """
        pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
        # All of these become what they start, so there is one process. It has a session
        # to itself: Ctrl-C is for this process, which ends all.
        with held(), (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.namespace(machine)),
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("sh", "-c", IF_NOT_ORPHANED, str(os.getpid())),
                    *(*pinned, sys.executable, *arguments),
                ],
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                env=environment,
                cwd=ROOT,
                text=True,
                start_new_session=True,
            )
            self.processes[name] = process
            return process

    def forget(self, name: str) -> None:
        """Kill a process, if it has not ended, and let it have ended from now on."""
        process = self.processes[name]
        with held():
            process.kill()
            _reap(self.processes.pop(name))

    def check_processes(self) -> None:
        """Raise if one of `processes` has ended.

        Raises
        ------
        LabError
            Names it, with the end of its log.
        """
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise LabError(
                    f"the {name} of the lab ended with code {process.returncode}; the "
                    f"end of its log:\n{self.end_of_log(name)}"
                )

    def end_of_log(self, name: str) -> str:
        """Return the last lines that a process wrote to stderr."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-20:])

    def namespace(self, machine: str) -> str:
        """Return the name of a machine's namespace."""
        return f"{self.name}-{machine}"

    def build(self) -> None:
        """Make the namespaces, and join them."""
        self.folder.mkdir(mode=0o700)
        switch = self.namespace("switch")
        _run("ip", "netns", "add", switch)
        # All devices are in these namespaces: they collide with no other lab's, no
        # firewall of this machine sees their packets, and they end with them.
        _run("ip", "-netns", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-netns", switch, "link", "set", "bridge", "up")
        for machine in self.machines:
            own = self.namespace(machine)
            _run("ip", "netns", "add", own)
            self._choose_congestion_control(own)
            cable = ["name", machine, "type", "veth", "peer", "name", "eth0"]
            _run("ip", "-netns", switch, "link", "add", *cable, "netns", own)
            port = ["link", "set", machine, "master", "bridge", "up"]
            _run("ip", "-netns", switch, *port)
            address = ["address", "add", f"{self.address(machine)}/24", "dev", "eth0"]
            _run("ip", "-netns", own, *address)
            for device in ("lo", "eth0"):
                _run("ip", "-netns", own, "link", "set", device, "up")

    def _choose_congestion_control(self, namespace: str) -> None:
        """Set TCP's, so that the links of all machines behave alike.

        Some have BBR, which paces what it sends by estimates. Where the kernel permits
        none of these, its own stays; the table of links says which that is.
        """
        for name in CONGESTION_CONTROLS:
            write = ["sh", "-c", f"echo {name} > {CONGESTION_CONTROL}"]
            done = leftovers.output(["ip", "netns", "exec", namespace, *write])
            if done.returncode == 0:
                break

    def _queue(self, namespace: str, device: str, discipline: Sequence[str]) -> None:
        tc = ["tc", "-netns", namespace, "qdisc"]
        # There may be none.
        leftovers.output([*tc, "del", "dev", device, "root"])
        if discipline:
            _run(*tc, "add", "dev", device, "root", *discipline)


@contextmanager
def open_lab(n_workers: int) -> Iterator[Lab]:
    """Build a lab, and remove it with all that runs in it, whatever happens.

    Raises
    ------
    LabUnavailableError
        If this machine cannot have one; see `check_available`.
    """
    lab = Lab(leftovers.new_lab_name(), n_workers)
    try:
        lab.build()
        yield lab
    finally:
        with held():
            # First these, one of which may be about to enter its namespace: whatever
            # lives on could write to the folder while that is removed.
            for process in lab.processes.values():
                process.kill()
            for process in lab.processes.values():
                _reap(process)
            leftovers.remove(lab.name)


def check_available(links: Sequence[Link]) -> None:
    """Raise unless this machine can have a lab with these links.

    Raises
    ------
    LabUnavailableError
        Says what is missing.
    """
    if not sys.platform.startswith("linux"):
        raise LabUnavailableError(
            f"this is {sys.platform}, and network namespaces are Linux's: run it there"
        )
    if os.geteuid() != 0:
        raise LabUnavailableError(
            f"only root may make network namespaces, and this is user {os.geteuid()}: "
            f'run it as root, or as `sudo -E "$(command -v python)" -m benchmarks ...`'
        )
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise LabUnavailableError(
                f"the command {tool} is not on PATH: install {package}"
            )
    lab = Lab(leftovers.new_lab_name(), 0)
    try:
        try:
            lab.build()
        except LabError as error:
            raise LabUnavailableError(
                f"network namespaces are not permitted here ({error}): run it outside "
                f"of the container, or in a privileged one"
            ) from error
        for link in links:
            try:
                lab.shape(link)
            except LabError as error:
                raise LabUnavailableError(
                    f"the kernel cannot make a link of {link.name} ({error}): choose "
                    f"other --links, or no --delay-ms if it is netem that it lacks"
                ) from error
    finally:
        with held():
            leftovers.remove(lab.name)


def _run(*command: str) -> None:
    # To the end, whatever interrupts this process: half a namespace has no name.
    with held():
        done = leftovers.output(command)
    if done.returncode != 0:
        raise LabError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")


def _reap(process: "subprocess.Popen[str]") -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            # What was not sent is for nobody.
            with suppress(BrokenPipeError):
                pipe.close()
