"""Where Dask is: the rooms that import dask or distributed."""

from skdistmlp.requirements import check_installed

# Before the modules that need them are imported, whose errors would not say why.
check_installed()
