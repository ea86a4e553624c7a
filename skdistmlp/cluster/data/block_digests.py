"""What the blocks of X were when a fit first computed them.

A fit that resumes elsewhere has Dask compute them once more. They may be others then,
as those that draw random numbers without a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skdistmlp.exceptions import ClusterError, counted


def check_none_changed(changed: Sequence[int], remedy: str) -> None:
    """Raise if blocks have changed.

    Parameters
    ----------
    changed : sequence of int
        Their numbers.
    remedy : str
        What the user can do besides giving random numbers a seed.

    Raises
    ------
    ClusterError
        If there are any.
    """
    if changed:
        raise ClusterError(
            f"{counted(len(changed), 'block')} of X, the first of them number "
            f"{changed[0]}, {'is' if len(changed) == 1 else 'are'} not the same when "
            f"computed again, so the fit cannot go on with the same rows. Give "
            f"whatever draws random numbers a seed, or {remedy}."
        )


class BlockDigests:
    """Digests of the blocks of a streamed array, which is computed as it is placed.

    Several workers may compute the same block in one placement, and need not agree on
    its last bits. Whenever it is placed again, it must be as one of them has found it.
    With a checkpoint, all were computed before, to tell the fit from others: then they
    must be as they were then.
    """

    def __init__(self) -> None:
        self._known: dict[int, set[bytes]] = {}

    def placing(self) -> Callable[[Sequence[int], Sequence[bytes]], None]:
        """Begin a placement; return a function that takes the digests of blocks.

        Its arguments are the numbers of blocks and their digests. It raises
        `ClusterError` if a block is not what it was in a placement before.
        """
        before = {number: frozenset(found) for number, found in self._known.items()}

        def note(numbers: Sequence[int], digests: Sequence[bytes]) -> None:
            found = [*zip(numbers, digests, strict=True)]
            check_none_changed(
                [
                    number
                    for number, digest in found
                    if number in before and digest not in before[number]
                ],
                "write X to files and read it from there",
            )
            for number, digest in found:
                self._known.setdefault(number, set()).add(digest)

        return note
