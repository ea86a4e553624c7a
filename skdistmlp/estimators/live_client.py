"""Copies and pickles of an estimator, which may hold a live Dask client."""

import copy
import sys
from typing import Any, Self

from skdistmlp.estimators.saved_state import from_plain, to_plain

STAYED_BEHIND = "_client_stayed_behind"
"""Attribute of an estimator that was pickled where it had a client, which its copy in
another process has not."""


class LiveClientMixin:
    """Share the parameter `client` with copies, and leave it out of pickles.

    A live client, or cluster, can be neither copied nor sent to another process.
    An address or None is treated as usual.
    """

    client: Any

    def __sklearn_clone__(self) -> Self:
        bare = object.__new__(type(self))
        bare.__dict__.update(self.__dict__, client=None)
        clone: Self = super(LiveClientMixin, bare).__sklearn_clone__()  # type: ignore[misc]
        clone.client = self.client
        if STAYED_BEHIND in vars(self):
            # In joblib's processes, other estimators clone what they were sent.
            setattr(clone, STAYED_BEHIND, True)
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
        if self.client is None:
            stays_behind = _has_active_client()
        else:
            stays_behind = not isinstance(self.client, str)
        if stays_behind:
            state["client"] = None
            # For a warning: what was to be distributed is not any more.
            state[STAYED_BEHIND] = True
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(from_plain(state))  # type: ignore[misc]


def _has_active_client() -> bool:
    # Without an import of distributed nobody can have made a client.
    if "distributed" not in sys.modules:
        return False
    from skdistmlp.cluster.client.lookup import has_active_client

    return has_active_client()
