"""The Dask client: finding it, calling it, and translating its errors."""
