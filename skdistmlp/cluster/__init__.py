"""Where Dask is: the only folder that imports dask or distributed."""

from pathlib import Path

import dask

# Users' own settings, in files or the environment, go before these.
for _defaults in dask.config.collect_yaml(
    [str(Path(__file__).parents[1] / "skdistmlp.yaml")]
):
    dask.config.update_defaults(_defaults)
