"""Copies and pickles of an estimator, which may hold a live Dask client."""

import copy
from typing import Any, Self

from skdistmlp.estimators.saved_state import from_plain, to_plain


class LiveClientMixin:
    """Share the parameter `client` with copies, and leave it out of pickles.

    A live client can be neither copied nor sent to another process. Anything
    else that is given as `client`, an address or None, is treated as usual.
    """

    client: Any

    def __sklearn_clone__(self) -> Self:
        bare = object.__new__(type(self))
        bare.__dict__.update(self.__dict__, client=None)
        clone: Self = super(LiveClientMixin, bare).__sklearn_clone__()  # type: ignore[misc]
        clone.client = self.client
        return clone

    def __copy__(self) -> Self:
        duplicate = object.__new__(type(self))
        duplicate.__dict__.update(self.__dict__)
        return duplicate

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.client)] = self.client
        duplicate = object.__new__(type(self))
        memo[id(self)] = duplicate
        duplicate.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return duplicate

    def __getstate__(self) -> dict[str, Any]:
        state = to_plain(super().__getstate__())  # type: ignore[arg-type]
        if not isinstance(self.client, str | None):
            state["client"] = None
            # For a warning: what was to be distributed is not any more.
            state["_client_stayed_behind"] = True
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(from_plain(state))  # type: ignore[misc]
