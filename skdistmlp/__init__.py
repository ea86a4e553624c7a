"""A multilayer perceptron split by neurons over the workers of a Dask cluster."""
