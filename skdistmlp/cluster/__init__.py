"""Where Dask is: the only folder that imports dask or distributed."""

from skdistmlp.cluster import settings as settings
