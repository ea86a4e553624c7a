"""Where Dask is: the rooms that import dask or distributed."""
