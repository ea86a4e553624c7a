"""Clear errors for habits from other libraries: what to pass instead.

LightGBM's and XGBoost's estimators for Dask, and dask-ml's, take `n_jobs`, have a
`client_`, or accept futures. Trying the same here raises an error that says what
to use instead.
"""

from typing import Any, NoReturn, Self

_INSTEAD = {
    "n_jobs": "n_workers= for the number of Dask workers",
    "client_": "client= for the Dask client or the address of a scheduler",
}
"""What to pass in place of a keyword that other libraries have."""

_RESULT = {
    ("distributed", "Future"): "its .result(), or a Dask array",
    ("dask", "Delayed"): "its .compute(), or dask.array.from_delayed(...) of it",
}
"""What to pass in place of a value that Dask has yet to compute, by the package and
the name of its class: nothing is imported to find out."""


class HabitsMixin:
    """Tell users of other libraries what to pass."""

    def __new__(cls, *_args: Any, **params: Any) -> Self:
        """Name the parameter that was meant; `__init__` has the parameters."""
        for name, instead in _INSTEAD.items():
            if name in params:
                raise TypeError(
                    f"{cls.__name__} has no parameter {name}; pass {instead}"
                )
        return super().__new__(cls)

    @property
    def client_(self) -> NoReturn:
        """Not an attribute of this estimator, but of LightGBM's."""
        raise AttributeError(
            f"{type(self).__name__} has no attribute client_; its parameter client is "
            f"the client that it was given, or None for the active client, and "
            f"plan_.workers has the workers of the last fit"
        )


def check_is_computed(**values: Any) -> None:
    """Refuse Dask's futures and delayed values, alone or in a list.

    Parameters
    ----------
    **values
        What the user passed, by the names of the arguments.

    Raises
    ------
    TypeError
        It says what to pass instead.
    """
    for name, value in values.items():
        in_list = isinstance(value, list | tuple) and len(value) > 0
        for cls in type(value[0] if in_list else value).__mro__:
            package = cls.__module__.partition(".")[0]
            instead = _RESULT.get((package, cls.__name__))
            if instead is not None:
                kind = "list of Dask " if in_list else "Dask "
                raise TypeError(
                    f"{name} is a {kind}{cls.__name__}; expected data or a Dask "
                    f"collection: pass {instead}"
                )
