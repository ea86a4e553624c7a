"""Settings of skdistmlp in Dask's configuration."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import dask
import pytest

from skdistmlp.settings import (
    SETTINGS,
    cache_max_bytes,
    cache_ttl_s,
    checkpoint_interval_s,
    copies_max_share,
    elastic,
    exchange_timeout_s,
    listen_ports,
    max_recoveries,
    parameter_threshold,
    recovery_wait_s,
    rows_memory_share,
)
from tests.marks import only_quick
from tests.pages import table_of

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "settings.md").read_text("utf-8")
DEFAULTS = {name: setting.default for name, setting in SETTINGS.items()}


def printed_by(code, **environment):
    """Return what a fresh process prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SHOW = f"""
import json, sys
names = {list(SETTINGS)}
assert not [f for f in sys.meta_path if "skdistmlp" in type(f).__module__]
print(json.dumps({{name: dask.config.get("skdistmlp." + name) for name in names}}))
"""

IMPORTS = {
    "ours first": "import skdistmlp; import dask",
    "dask first": "import dask; import skdistmlp",
    "ours, then its configuration": "import skdistmlp; from dask import config; "
    "import dask",
    "ours, then distributed": "import skdistmlp; import distributed, dask",
    "estimators": "import skdistmlp.estimators; import dask",
}


EACH_ORDER = pytest.mark.parametrize(
    "imports", only_quick(0, cases=IMPORTS.values()), ids=IMPORTS
)


@EACH_ORDER
def test_settings_are_registered_on_import_in_any_order(imports):
    assert printed_by(f"{imports}\n{SHOW}") == DEFAULTS


@EACH_ORDER
def test_a_users_environment_wins_over_the_defaults(imports):
    values = printed_by(
        f"{imports}\n{SHOW}",
        DASK_SKDISTMLP__EXCHANGE_TIMEOUT="7s",
        DASK_SKDISTMLP__CACHE__MAX_BYTES="1 GB",
    )
    assert values == DEFAULTS | {"exchange-timeout": "7s", "cache.max-bytes": "1 GB"}


@EACH_ORDER
def test_a_users_file_wins_over_the_defaults(imports, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("skdistmlp:\n  listen-port: 9000:9010\n  cache:\n    ttl: 1h\n")
    values = printed_by(f"{imports}\n{SHOW}", DASK_CONFIG=str(file))
    assert values == DEFAULTS | {"listen-port": "9000:9010", "cache.ttl": "1h"}


def test_values_set_before_the_import_win():
    code = "import dask; dask.config.set({'skdistmlp.listen-port': 4711})"
    values = printed_by(f"{code}\nimport skdistmlp\n{SHOW}")
    assert values == DEFAULTS | {"listen-port": 4711}


def test_defaults_survive_a_refresh():
    code = "import skdistmlp, dask; dask.config.refresh()"
    assert printed_by(f"{code}\n{SHOW}") == DEFAULTS


IMPORTED_INSIDE_A_BLOCK = """
import json, dask
with dask.config.set({"skdistmlp.listen-port": 4711}):
    import skdistmlp
    from skdistmlp.settings import exchange_timeout_s, listen_ports
    inside = [*listen_ports()], exchange_timeout_s()
print(json.dumps([*inside, [*listen_ports()], exchange_timeout_s()]))
"""


def test_defaults_outlive_a_block_in_which_the_package_is_imported():
    assert printed_by(IMPORTED_INSIDE_A_BLOCK) == [[4711], 30, [0], 30]


FIT_AT_AN_ADDRESS = """
import json, warnings, numpy as np
from skdistmlp import DistributedMLPClassifier
warnings.simplefilter("ignore")
X, y = np.eye(8), np.arange(8) % 2
clf = DistributedMLPClassifier((5,), max_iter=1, client={address!r}, n_workers=2)
print(json.dumps(clf.fit(X, y).plan_.engine))
"""


@pytest.mark.parametrize(("threshold", "is_local"), [("51", False), ("52", True)])
@pytest.mark.slow
def test_the_environment_decides_with_the_address_of_a_cluster(
    client, threshold, is_local
):
    """The network has 51 parameters; Dask is imported only for the fit."""
    code = FIT_AT_AN_ADDRESS.format(address=client.scheduler.address)
    engine = printed_by(code, DASK_SKDISTMLP__PARAMETER_THRESHOLD=threshold)
    assert (engine == "local") is is_local


FIT_WITHOUT_A_CLUSTER = """
import json, sys, warnings, numpy as np
from skdistmlp import DistributedMLPClassifier
X, y = np.eye(8), np.arange(8) % 2
clf = DistributedMLPClassifier((5,), max_iter=1, n_workers={n_workers})
{stays_behind}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    clf.fit(X, y)
print(json.dumps([clf.plan_.reason, [str(w.message) for w in caught]]))
"""


@pytest.mark.parametrize(
    ("n_workers", "stays_behind"),
    only_quick(1, cases=[(2, ""), (None, "clf._client_stayed_behind = True")]),
    ids=["n_workers", "as in a process of joblib"],
)
@pytest.mark.slow
def test_the_environment_decides_where_a_cluster_is_wanted(n_workers, stays_behind):
    code = FIT_WITHOUT_A_CLUSTER.format(n_workers=n_workers, stays_behind=stays_behind)
    variable = "DASK_SKDISTMLP__PARAMETER_THRESHOLD"
    reason, warned = printed_by(code, **{variable: "51"})
    assert "threshold" not in reason
    assert any("needs a cluster" in text for text in warned)
    reason, warned = printed_by(code, **{variable: "52"})
    assert reason.endswith("threshold of 52 (setting skdistmlp.parameter-threshold)")
    assert not any("needs a cluster" in text for text in warned)


@pytest.mark.slow
def test_a_local_fit_names_the_setting_only_if_it_was_read():
    code = FIT_WITHOUT_A_CLUSTER.format(n_workers=None, stays_behind="")
    reason, _ = printed_by(code, DASK_SKDISTMLP__PARAMETER_THRESHOLD="60")
    assert reason.endswith("of 50,000 (default of skdistmlp.parameter-threshold)")


def test_import_of_the_package_leaves_dask_alone():
    code = "import json, sys, skdistmlp, skdistmlp.settings\nprint(json.dumps("
    assert not printed_by(f"{code}'dask' in sys.modules or 'yaml' in sys.modules))")


def test_dask_lists_the_settings():
    done = subprocess.run(
        [sys.executable, "-m", "dask", "config", "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (ours,) = re.findall(r"^skdistmlp:\n((?:  .*\n)+)", done.stdout, re.MULTILINE)
    for name in SETTINGS:
        assert f"{name.split('.')[-1]}:" in ours


def test_every_setting_is_read_by_a_function():
    with dask.config.set({f"skdistmlp.{name}": None for name in SETTINGS}):
        named = set()
        for read in READERS.values():
            with pytest.raises(ValueError, match="skdistmlp") as refused:
                read()
            named.add(str(refused.value).split()[0])
    assert named == {setting.key for setting in SETTINGS.values()}


READERS = {
    "parameter-threshold": parameter_threshold,
    "exchange-timeout": exchange_timeout_s,
    "listen-port": listen_ports,
    "cache.max-bytes": cache_max_bytes,
    "cache.ttl": cache_ttl_s,
    "rows.memory-share": rows_memory_share,
    "max-recoveries": max_recoveries,
    "recovery-wait": recovery_wait_s,
    "copies.max-share": copies_max_share,
    "checkpoint.interval": checkpoint_interval_s,
    "elastic": elastic,
}


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("parameter-threshold", 50_000, 50_000),
        ("parameter-threshold", 0, 0),
        ("max-recoveries", 0, 0),
        ("recovery-wait", "2m", 120.0),
        ("recovery-wait", 0, 0.0),
        ("copies.max-share", 0, 0.0),
        ("copies.max-share", 0.02, 0.02),
        ("elastic", False, False),
        ("elastic", True, True),
        ("exchange-timeout", "30s", 30),
        ("exchange-timeout", "500ms", 0.5),
        ("exchange-timeout", 2, 2),
        ("listen-port", 0, range(1)),
        ("listen-port", 9000, range(9000, 9001)),
        ("listen-port", "9000", range(9000, 9001)),
        ("listen-port", "9000:9010", range(9000, 9011)),
        ("listen-port", "65535:65535", range(65535, 65536)),
        ("cache.max-bytes", "512MiB", 512 * 2**20),
        ("cache.max-bytes", "2 GB", 2 * 10**9),
        ("cache.max-bytes", "1.5 kB", 1500),
        ("cache.max-bytes", "1000", 1000),
        ("cache.max-bytes", 1e9, 10**9),
        ("cache.max-bytes", 0, 0),
        ("cache.ttl", "5m", 300),
        ("cache.ttl", 0, 0),
    ],
)
def test_values_are_parsed(name, value, parsed):
    with dask.config.set({f"skdistmlp.{name}": value}):
        assert READERS[name]() == parsed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parameter-threshold", -1),
        ("max-recoveries", -1),
        ("max-recoveries", "often"),
        ("recovery-wait", "-1s"),
        ("copies.max-share", 2),
        ("checkpoint.interval", "-1s"),
        ("elastic", 1),
        ("elastic", "yes"),
        ("elastic", None),
        ("parameter-threshold", 0.5),
        ("parameter-threshold", "many"),
        ("parameter-threshold", True),
        ("exchange-timeout", 0),
        ("exchange-timeout", "-1s"),
        ("exchange-timeout", "soon"),
        ("exchange-timeout", "3 parsecs"),
        ("exchange-timeout", float("inf")),
        ("exchange-timeout", [1]),
        ("exchange-timeout", []),
        ("exchange-timeout", {}),
        ("exchange-timeout", ""),
        ("exchange-timeout", "1e999 s"),
        ("exchange-timeout", 10**40),
        ("exchange-timeout", None),
        ("listen-port", 10**40),
        ("listen-port", ""),
        ("listen-port", ":"),
        ("listen-port", [9000]),
        ("cache.max-bytes", ""),
        ("cache.max-bytes", []),
        ("cache.max-bytes", float("inf")),
        ("cache.max-bytes", float("nan")),
        ("cache.max-bytes", "1e999 GB"),
        ("cache.max-bytes", 1.5),
        ("cache.max-bytes", "1.5"),
        ("cache.max-bytes", 1e300),
        ("cache.max-bytes", "1e300"),
        ("cache.max-bytes", "1e300 GB"),
        ("cache.max-bytes", 10**40),
        ("listen-port", "http"),
        ("listen-port", -1),
        ("listen-port", 65536),
        ("listen-port", "9010:9000"),
        ("listen-port", "0:10"),
        ("listen-port", "9000:70000"),
        ("listen-port", "9000:"),
        ("listen-port", 1.5),
        ("cache.max-bytes", "lots"),
        ("cache.max-bytes", -1),
        ("cache.max-bytes", {}),
        ("cache.ttl", "ever"),
        ("cache.ttl", False),
        ("cache.ttl", float("nan")),
        ("rows.memory-share", -0.1),
        ("rows.memory-share", 1.1),
        ("rows.memory-share", float("nan")),
        ("rows.memory-share", "half"),
        ("rows.memory-share", True),
        ("rows.memory-share", None),
    ],
)
def test_an_invalid_value_is_refused_by_name(name, value):
    setting = SETTINGS[name]
    with (
        dask.config.set({setting.key: value}),
        pytest.raises(ValueError, match="in Dask's configuration") as refused,
    ):
        READERS[name]()
    message = str(refused.value)
    assert message.startswith(f"{setting.key} is {value!r} in Dask's configuration")
    assert f"expected {setting.expected}." in message
    assert setting.variable in message


@pytest.mark.parametrize(
    ("section", "reader"),
    [("skdistmlp", exchange_timeout_s), ("skdistmlp.cache", cache_ttl_s)],
)
@pytest.mark.parametrize("value", [5, "off", [1], False])
def test_a_value_in_the_place_of_a_section_is_refused(section, reader, value):
    expected = re.escape(f"{section} is {value!r} in Dask's configuration, expected")
    with dask.config.set({section: value}), pytest.raises(ValueError, match=expected):
        reader()


READ_ALL = f"""
import json, warnings
from skdistmlp import settings
said = []
for reader in {[reader.__name__ for reader in READERS.values()]} * 2:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            getattr(settings, reader)()
        except ValueError as error:
            said.append(str(error))
    said += [str(warning.message) for warning in caught]
print(json.dumps(said))
"""


@pytest.mark.parametrize(
    "imports", ["import skdistmlp, dask", "import dask, skdistmlp"]
)
@pytest.mark.parametrize(
    ("section", "variable"),
    [("skdistmlp", "DASK_SKDISTMLP"), ("skdistmlp.cache", "DASK_SKDISTMLP__CACHE")],
)
def test_a_section_set_in_the_environment_is_refused(imports, section, variable):
    """The import goes well, and every setting that is read says what is wrong."""
    said = printed_by(f"{imports}\n{READ_ALL}", **{variable: "5"})
    assert len(said) == 2 * len(SETTINGS)
    for message in said:
        assert message.startswith(f"{section} is 5 in Dask's configuration, expected")
        assert message.endswith(f" {variable}.")


def test_names_that_no_setting_has_are_warned_of_once():
    said = printed_by(
        READ_ALL,
        DASK_SKDISTMLP__EXCHANGE_TIMOUT="9s",
        DASK_SKDISTMLP__CACH__TTL="1m",
        DASK_SKDISTMLP__LISTEN_PORT="9000",
    )
    assert said == [
        "Dask's configuration has settings that skdistmlp does not know and ignores: "
        "skdistmlp.cach.ttl (the closest is skdistmlp.cache.ttl), "
        "skdistmlp.exchange-timout (the closest is skdistmlp.exchange-timeout). "
        "Correct them there, or in the environment (DASK_SKDISTMLP__CACH__TTL, "
        "DASK_SKDISTMLP__EXCHANGE_TIMOUT)."
    ]


@pytest.mark.filterwarnings("error")
def test_names_spelt_with_underscores_or_empty_are_known():
    values = {"exchange_timeout": "9s", "cache": {}, "listen-port": 1}
    with dask.config.set({"skdistmlp": values}):
        assert exchange_timeout_s() == 9


@pytest.mark.parametrize("section", ["skdistmlp", "skdistmlp.cache"])
def test_an_empty_section_has_the_defaults(section):
    with dask.config.set({section: None}):
        assert cache_ttl_s() == 300


# The page.


def test_the_page_has_every_setting():
    assert table_of(PAGE, "What you may set") == [
        [f"`{s.key}`", f"`{s.default}`", s.expected, s.meaning]
        for s in SETTINGS.values()
    ]
    for setting in SETTINGS.values():
        assert setting.key in PAGE
