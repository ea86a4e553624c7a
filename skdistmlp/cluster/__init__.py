"""Where Dask is: the only folder that imports dask or distributed."""
