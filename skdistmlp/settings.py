"""The settings of users, and the fixed timeouts: one table of each.

Users set the first in Dask's configuration, under ``skdistmlp``. The second are
constants: nobody should have to change them, and each says what set it.

This module imports Dask only when a setting is read, so that ``import skdistmlp`` and
the wire do without.
"""

import operator
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


# Not a dataclass: that takes milliseconds to import, in every command of Dask.
class Setting(NamedTuple):
    """One setting that users may change in Dask's configuration.

    Attributes
    ----------
    name : str
        Its key below ``skdistmlp``.
    default : bool, int, float or str
        Its value if nobody sets it.
    expected : str
        What values it takes, for the page of settings and for errors.
    meaning : str
        What it decides.
    """

    name: str
    default: float | str
    expected: str
    meaning: str

    @property
    def key(self) -> str:
        """The whole key in Dask's configuration."""
        return f"skdistmlp.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that Dask reads it from."""
        return _variable(self.key)


def _variable(key: str) -> str:
    return f"DASK_{key.upper().replace('.', '__').replace('-', '_')}"


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(
            "parameter-threshold",
            50_000,
            "a number of parameters, 0 or more",
            "engine='auto' trains networks with fewer parameters locally",
        ),
        Setting(
            "exchange-timeout",
            "30s",
            "a duration above 0, such as 30s or 500ms",
            "how long a shard waits for the slowest one in an exchange",
        ),
        Setting(
            "listen-port",
            0,
            "0 for any free port, a port, or a range such as '9000:9010'",
            "where a shard accepts connections from other shards; of a range it takes "
            "the first free port",
        ),
        Setting(
            "cache.max-bytes",
            "512MiB",
            "a size, such as 512MiB or 2 GB; 0 turns the cache off",
            "number of bytes of rows and parameters that a client may keep on all "
            "workers together for later calls",
        ),
        Setting(
            "cache.ttl",
            "5m",
            "a duration, such as 5m or 90s",
            "how long the cache keeps what no call uses",
        ),
        Setting(
            "max-recoveries",
            3,
            "a number, 0 or more",
            "how often a fit recovers from the loss of workers; with 0 it does not "
            "leave workers that are being retired or paused, either",
        ),
        Setting(
            "recovery-wait",
            "10s",
            "a duration, such as 10s or 2m",
            "how long it waits for workers to take the place of those that were lost, "
            "before it goes on with fewer",
        ),
        Setting(
            "copies.max-share",
            0.02,
            "a share between 0 and 1, such as 0.02; 0 makes no copies",
            "share of the training time that copies of its state may take, from which "
            "a fit goes on",
        ),
        Setting(
            "checkpoint.interval",
            "60s",
            "a duration, such as 60s or 10m",
            "how long a fit with checkpoint= trains, at least, between two files",
        ),
        Setting(
            "elastic",
            False,
            "True or False",
            "whether a fit with engine='peers' moves to a faster plan, such as with "
            "workers that have joined, when that pays; not with max-recoveries 0",
        ),
        Setting(
            "rows.memory-share",
            0.5,
            "a share between 0 and 1, such as 0.5",
            "share of a worker's memory limit that rows for training may take: where a "
            "copy per shard is more, each row is on one worker, and where that is more "
            "too, in a file there",
        ),
    )
}
"""All settings, by name: nothing else defines a default."""


def exchange_timeout_s() -> float:
    """Return ``skdistmlp.exchange-timeout`` in seconds."""
    return _parsed("exchange-timeout", _positive_duration)


def listen_ports() -> Sequence[int]:
    """Return the ports of ``skdistmlp.listen-port``, in the order to try them."""
    return _parsed("listen-port", _ports)


def parameter_threshold() -> int:
    """Return ``skdistmlp.parameter-threshold``; imports Dask's configuration."""
    return _parsed("parameter-threshold", _count)


def cache_max_bytes() -> int:
    """Return ``skdistmlp.cache.max-bytes`` in bytes."""
    return _parsed("cache.max-bytes", _size)


def rows_memory_share() -> float:
    """Return ``skdistmlp.rows.memory-share``."""
    return _parsed("rows.memory-share", _share)


def max_recoveries() -> int:
    """Return ``skdistmlp.max-recoveries``."""
    return _parsed("max-recoveries", _count)


def recovery_wait_s() -> float:
    """Return ``skdistmlp.recovery-wait`` in seconds."""
    return _parsed("recovery-wait", _duration)


def copies_max_share() -> float:
    """Return ``skdistmlp.copies.max-share``."""
    return _parsed("copies.max-share", _share)


def checkpoint_interval_s() -> float:
    """Return ``skdistmlp.checkpoint.interval`` in seconds."""
    return _parsed("checkpoint.interval", _duration)


def elastic() -> bool:
    """Return ``skdistmlp.elastic``."""
    return _parsed("elastic", _switch)


def cache_ttl_s() -> float:
    """Return ``skdistmlp.cache.ttl`` in seconds."""
    return _parsed("cache.ttl", _duration)


def _parsed(name: str, parse: Callable[[Any], T]) -> T:
    """Read a setting, and parse it; an error names its key and what was expected."""
    from dask import config

    setting = SETTINGS[name]
    _check_names(config)
    # When this package is imported inside `dask.config.set(...)` of one of its
    # settings, the end of the block removes all of them: the table still has the
    # defaults.
    value = config.get(setting.key, setting.default)
    try:
        # YAML's yes and no are no numbers here, though Python takes them for such.
        if isinstance(value, bool) and parse is not _switch:
            raise TypeError
        return parse(value)
    except (
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
    ) as error:
        # All of these are raised by Dask's functions that parse sizes and times.
        raise ValueError(
            f"{setting.key} is {value!r} in Dask's configuration, expected "
            f"{setting.expected}. Correct it there, or in the environment variable "
            f"{setting.variable}."
        ) from error


def _misplaced(config: ModuleType) -> dict[str, Any]:
    """Return values in the place of the settings below them, as of ``skdistmlp``."""
    values = {section: config.get(section, None) for section in _sections()}
    return {
        section: value
        for section, value in values.items()
        if value is not None and not isinstance(value, Mapping)
    }


def _sections() -> dict[str, str]:
    """Return the keys that have settings below them, each with one of these."""
    sections: dict[str, str] = {}
    for setting in SETTINGS.values():
        names = setting.key.split(".")
        for n_names in range(1, len(names)):
            sections.setdefault(".".join(names[:n_names]), setting.key)
    return sections


def _check_names(config: ModuleType) -> None:
    """Refuse values in the place of settings; warn of names that no setting has."""
    for section, value in _misplaced(config).items():
        raise ValueError(
            f"{section} is {value!r} in Dask's configuration, expected settings, such "
            f"as {_sections()[section]}. Correct it there, or in the environment "
            f"variable {_variable(section)}."
        )
    present = config.get("skdistmlp", None) or {}
    unknown = sorted(set(_names(present)) - set(SETTINGS) - _warned_of)
    if not unknown:
        return
    import difflib
    import warnings

    _warned_of.update(unknown)
    keys = [
        f"skdistmlp.{name} (the closest is "
        f"skdistmlp.{difflib.get_close_matches(name, SETTINGS, 1, cutoff=0)[0]})"
        for name in unknown
    ]
    variables = [_variable(f"skdistmlp.{name}") for name in unknown]
    warnings.warn(
        f"Dask's configuration has settings that skdistmlp does not know and ignores: "
        f"{', '.join(keys)}. Correct them there, or in the environment "
        f"({', '.join(variables)}).",
        stacklevel=4,
    )


_warned_of: set[str] = set()
"""Unknown names that this process, or the one it was forked from, has warned of."""


def _names(values: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    """Yield the names of what is set, spelt with hyphens as those of settings are."""
    for key, value in list(values.items()):
        name = above + str(key).replace("_", "-")
        # A setting that has values below it is refused when it is read.
        if isinstance(value, Mapping) and value and name not in SETTINGS:
            yield from _names(value, f"{name}.")
        elif f"skdistmlp.{name}" not in _sections():
            yield name


def _duration(value: Any) -> float:
    from dask.utils import parse_timedelta

    seconds = float(parse_timedelta(value))
    # Python refuses to wait for longer.
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise ValueError
    return seconds


def _positive_duration(value: Any) -> float:
    if (seconds := _duration(value)) == 0:
        raise ValueError
    return seconds


def _size(value: Any) -> int:
    from dask.utils import parse_bytes

    # Dask takes "GB" for 1 GB, an empty text for 1 byte, and 1.5 and "1.5" for 1 byte.
    if isinstance(value, str):
        if not any(map(str.isdigit, value)):
            raise ValueError
        # It may have a unit.
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    # No machine has more.
    if (size := _count(parse_bytes(value))) > sys.maxsize:
        raise ValueError
    return size


def _share(value: Any) -> float:
    if not 0 <= (share := float(value)) <= 1:
        raise ValueError
    return share


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _count(value: Any) -> int:
    if (count := operator.index(value)) < 0:
        raise ValueError
    return count


def _ports(value: Any) -> Sequence[int]:
    first, colon, last = str(value).partition(":")
    if not colon:
        ports = range(int(first), int(first) + 1)
    else:
        ports = range(int(first), int(last) + 1)
        # 0 is no port: it stands for any, and in a range it would make the rest moot.
        if not ports or ports[0] == 0:
            raise ValueError
    if ports[0] < 0 or ports[-1] > 65535:
        raise ValueError
    return ports


def register_defaults() -> None:
    """Have Dask's configuration show all settings, without importing Dask.

    If Dask's configuration is not loaded yet, this waits for whoever loads it: the
    order of ``import dask`` and ``import skdistmlp`` makes no difference.
    """
    config = sys.modules.get("dask.config")
    if config is None:
        sys.meta_path.insert(0, _RegisterWithDask())
    else:
        _register(config)


def _register(config: ModuleType) -> None:
    nested: dict[str, Any] = {}
    for setting in SETTINGS.values():
        *sections, last = setting.name.split(".")
        section = nested
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = setting.default
    # What users have set, in files, the environment or code, wins.
    misplaced = _misplaced(config)
    config.update_defaults({"skdistmlp": nested})
    # But not where Dask needs a place for the defaults. Put back, so that whoever reads
    # a setting is told; to raise here would make the import of Dask fail.
    config.set(misplaced)


class _RegisterWithDask:
    """Register the settings right after ``dask.config`` is loaded, then be gone."""

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> ModuleSpec | None:
        """Find ``dask.config`` as all others do, and add a step to its loading."""
        if fullname != "dask.config":
            return None
        # Before the others are asked, or this would be asked again, without end. Python
        # holds the lock of this module's import meanwhile: no other thread comes here.
        sys.meta_path.remove(self)
        import importlib.util

        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            _register(module)

        # Of this one loader: Python makes another for each module.
        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


# Fixed timeouts, in seconds. docs/settings.md has the same table; a test compares them.

WORKER_CHECK_S = 2.0
"""Between checks of the cluster during a wait. A check takes one message to the
scheduler; a lost worker is noticed after this long at the latest."""

BUSY_AFTER_S = 5.0
"""For a run to wait for workers that do other work, or for a collection to be computed,
until a line says so."""

CONNECT_PROBE_S = 0.5
"""For a client to find out whether it can connect to a worker directly. A firewall that
drops packets costs this long, once per client and worker."""

CONNECT_PROBE_VALID_S = 60.0
"""For what was found out to count, if the client can connect. Otherwise it counts until
the client is closed."""

SEND_POLL_S = 0.1
"""Between questions whether a worker accepts values, as in Dask."""

RECONNECT_POLL_S = 0.05
"""Between checks whether a client has reconnected to its scheduler. Dask itself decides
when to give up."""

DIAGNOSE_S = 1.0
"""Until an address that has not answered is looked at: a port may refuse connections,
belong to a web server, or be on a host that nobody knows. Repeated as often."""

REFUSED_S = 5.0
"""For a port to refuse connections, since its scheduler may just be starting. Dask
would try for its whole `distributed.comm.timeouts.connect`."""

LOSS_POLL_S = 0.05
"""Between checks whether the scheduler has noticed a lost worker, for at most
`WORKER_CHECK_S`. A peer sees the broken connection before the scheduler does."""

ORPHAN_LOOKS_S = 2.0, 10.0, 60.0
"""After a client disconnects, when its workers are searched for values it has sent:
messages through the scheduler can arrive after the scheduler has noticed the
disconnection."""

ORPHAN_ANSWER_S = 5.0
"""For scheduler and workers to answer requests about orphaned values. Only the clean-up
itself waits for the answer."""

EXIT_RELEASE_S = 1.0
"""For the scheduler to release what is cached on workers when the client's process
ends. If it does not, it notices that the client is gone."""

RELEASE_POLL_S = 0.01
"""Between questions whether it has."""

ROUND_S = 5.0
"""For one round of `engine="peers"`: the first epoch to end after this long also ends
the round. A round costs about 15 ms of scheduling, less than 0.5% of this."""

MEASURING_TIMEOUT_S = 15.0
"""For the measurement of the workers before a fit, which takes about a second if they
are free, and a few more if they have yet to import this package. Without it, a fit is
planned by the number of parameters."""

MEETING_S = 3.0
"""For workers that are measured to connect to each other. All have just answered, so
whoever is not found by then cannot be reached."""

MEASURING_RETRY_S = 60.0
"""For which what has failed is not measured again: it may have taken seconds, and the
fits of a search would all wait for it. Workers that are held take no time to ask."""

MEASURING_POLL_S = 0.005
"""Between looks whether a measurement has ended."""

COPIES_ANSWER_S = 30.0
"""For the last copies of a fit's state to arrive, after workers were lost. If they do
not, the fit begins again."""

RECOVERY_POLL_S = 0.1
"""Between looks for workers that take the place of lost ones."""

MOVE_LOOK_S = 15.0
"""Between looks for a faster plan, with `skdistmlp.elastic`. Each time that workers are
measured, this doubles until the end of the fit."""

PING_ANSWER_S = 2.0
"""For workers to answer a ping before an error names those that did not, or to take
note that they should ignore Ctrl-C. A busy worker answers too, unless its task holds
the GIL."""

QUEUE_FIRST_POLL_S = 0.01
"""Until a queued fit first asks whether its workers are free. Each further interval is
half as long again, up to `QUEUE_POLL_S`."""

QUEUE_POLL_S = 0.5
"""Longest interval between these questions: a fit starts at most this long after its
workers are free."""

INTENTION_S = 10.0
"""For workers that a fit has chosen to count as taken before it reserves them: until
then another fit takes others, if there are."""

SILENT_CLIENT_S = 40.0
"""Without a heartbeat from its client, after which a fit loses its reserved workers,
but not before `SILENT_HEARTBEATS` are missing. Heartbeats come every 5 s, less often
while the GIL is held. The scheduler notices most dead clients at once, since their
connections close."""

SCHEDULER_ASLEEP_S = 15.0
"""Without a question from any fit, after which the scheduler assumes that it was asleep
itself and does not count earlier missing heartbeats. Queued fits ask every
`QUEUE_POLL_S`."""

LEAVE_QUEUE_S = 5.0
"""For the scheduler to confirm that a fit has released its workers. If it does not, it
releases them when the client disconnects."""

GARBAGE_AFTER_S = 1.0
"""Between two looks at whether a worker still holds what a failed task was given, or a
shard that nobody needs; if so, it collects garbage. At the first look, Dask has usually
sent the error, which holds the shard and all rows until then."""

GARBAGE_AT_MOST_EVERY_S = 60.0
"""The time between these looks doubles up to this, since each collection takes time."""

MEMORY_FREED_S = 5.0
"""For workers to free what earlier fits held, before a fit that needs the memory is
refused. What a failed one held is freed when garbage is collected."""

MEMORY_POLL_S = 0.5
"""Between looks at whether they have."""

RESUME_S = 2.0
"""For paused workers to return memory that they have freed, and to resume, before a
call goes on without them."""

RESUME_POLL_S = 0.1
"""Between looks at whether they have. Dask's workers look at their memory as often."""

HANDSHAKE_TIMEOUT_S = 30.0
"""For a connecting process to prove that it belongs to the fit. A worker whose task
holds the GIL may take long; an intruder occupies one of `MAX_UNVERIFIED` places for
this long at most."""

PORT_FREE_S = 3.0
"""For the shard of the previous fit to free a fixed port. Its task ends soon after the
fit."""

PORT_POLL_S = 0.05
"""Between attempts to listen on a port that is in use."""

CANCEL_POLL_S = 0.2
"""Between checks of a task that waits, for another shard or for blocks of X, whether it
was cancelled."""

SPIN_S = 3e-4
"""For which a shard polls its sockets before it sleeps until bytes arrive. Waking up
takes about 0.1 ms on a virtual machine: on two workers, a step of 64-(100) took 0.25
ms, and 0.34 ms without polling."""


def fixed_timeouts() -> Iterator[tuple[str, float | tuple[float, ...]]]:
    """Yield the name and the seconds of each fixed timeout."""
    for name, value in list(globals().items()):
        if name.isupper() and name.endswith("_S"):
            yield name, value
