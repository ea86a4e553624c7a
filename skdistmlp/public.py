"""Name classes by the path from which users import them."""

from typing import TypeVar

T = TypeVar("T")


def public(cls: type[T]) -> type[T]:
    """Let a class say that it belongs to `skdistmlp`, whatever room it is in.

    Pickles and skops files name that path, so that they outlive our modules.
    """
    cls.__module__ = "skdistmlp"
    # Since Python 3.13 `inspect` looks for this line of the class's own file in that
    # of the package, and shows something else.
    if "__firstlineno__" in vars(cls):
        del cls.__firstlineno__  # type: ignore[attr-defined]
    return cls
