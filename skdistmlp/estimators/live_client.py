"""Copies and pickles of an estimator, which may hold a live Dask client."""

import copy
import sys
from inspect import signature
from typing import Any, Self

from skdistmlp.estimators.saved_state import from_plain, to_plain

STAYED_BEHIND = "_client_stayed_behind"
"""Attribute of an estimator that was pickled where it had a client, which its copy in
another process has not: "given" as a parameter, or the "active" one."""

CLONED_WITH_CLIENT = "_cloned_with_client"
"""Attribute of a clone that was made while a client was active, in this process."""


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
        if CLONED_WITH_CLIENT in vars(self) or (
            self.client is None and _has_active_client()
        ):
            # A search clones in the thread that called it, but joblib pickles in
            # another, where a client of `Client.as_current` is not active.
            setattr(clone, CLONED_WITH_CLIENT, True)
        if STAYED_BEHIND in vars(self):
            # In joblib's processes, other estimators clone what they were sent.
            setattr(clone, STAYED_BEHIND, vars(self)[STAYED_BEHIND])
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
        was_active = state.pop(CLONED_WITH_CLIENT, False)
        # For a warning: what was to be distributed is not any more.
        if self.client is None:
            if was_active or _has_active_client():
                state[STAYED_BEHIND] = "active"
        elif not isinstance(self.client, str):
            state["client"] = None
            state[STAYED_BEHIND] = "given"
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        parameters = signature(type(self)).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        super().__setstate__(from_plain(state, defaults))  # type: ignore[misc]


def _has_active_client() -> bool:
    # Without an import of distributed nobody can have made a client.
    if "distributed" not in sys.modules:
        return False
    from skdistmlp.cluster.client.lookup import has_active_client

    return has_active_client()
