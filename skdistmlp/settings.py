"""The settings of users: one table.

They are set in Dask's configuration, under ``skdistmlp``.

This module imports Dask only when a setting is read, so that ``import skdistmlp`` and
the wire do without.
"""

import operator
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
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
            "how long a shard waits for the slowest one in an exchange, and the client "
            "for a worker that does not answer: four times that if it has tasks that "
            "are not of this package",
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
            "a fit goes on; the first ones are taken five times as early, and the next "
            "once all together are within the share",
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


def keeps_copies() -> bool:
    """Return whether a fit keeps copies of its state: if it recovers, and may."""
    return max_recoveries() > 0 and copies_max_share() > 0


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


@cache
def _sections() -> Mapping[str, str]:
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
