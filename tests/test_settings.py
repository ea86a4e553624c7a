"""Settings of skdistmlp in Dask's configuration."""

import subprocess
import sys

SET_BEFORE_THE_FIRST_FIT = """
import dask

with dask.config.set({"skdistmlp.listen-port": 4711}):
    from skdistmlp.settings import setting

    print(setting("listen-port"), setting("exchange-timeout"))
print(setting("listen-port"), setting("exchange-timeout"))
"""


def test_defaults_outlive_a_setting_made_before_they_were_loaded():
    done = subprocess.run(
        [sys.executable, "-c", SET_BEFORE_THE_FIRST_FIT],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["4711", "30s", "0", "30s"]
