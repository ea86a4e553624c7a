"""What displays may be given: an error says what to pass instead."""

from collections.abc import Sized
from inspect import isclass
from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted


def check_network(given: Any, kinds: tuple[type, ...]) -> None:
    """Raise unless it is a fitted network of one of these classes.

    Parameters
    ----------
    given : object
        What the user gave.
    kinds : tuple of type
        Classes of networks that will do.

    Raises
    ------
    TypeError
        If it is something else, such as a pipeline or a search.
    NotFittedError
        If it was not fitted.
    """
    if not isinstance(given, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        where = _where_within(given, kinds)
        raise TypeError(f"expected a fitted {names}, got {_what(given)}{where}")
    check_is_fitted(given)


def check_search(given: Any) -> None:
    """Raise unless it is a fitted search, such as `GridSearchCV`.

    Parameters
    ----------
    given : object
        What the user gave.

    Raises
    ------
    TypeError
        If it is something else, such as an estimator.
    NotFittedError
        If it was not fitted.
    """
    if not _is_search(given):
        hint = "pass the search itself, not its best_estimator_"
        if isinstance(given, Pipeline) and _is_search(given[-1]):
            hint = "pass its last step, pipeline[-1]"
        raise TypeError(
            f"expected a fitted search over n_workers, such as GridSearchCV, got "
            f"{_what(given)}: {hint}"
        )
    check_is_fitted(given, "cv_results_")


def check_lengths(**given: Sized | None) -> None:
    """Raise unless all have the same length, which is not 0.

    Parameters
    ----------
    **given : sequence or None
        What belongs together; None for what was not given.

    Raises
    ------
    ValueError
        If something is missing.
    """
    names = [name for name, values in given.items() if values is not None]
    lengths = [len(values) for values in given.values() if values is not None]
    if not lengths[0] or len(set(lengths)) > 1:
        *several, last = (f"{n} ({k})" for n, k in zip(names, lengths, strict=True))
        if not several:
            raise ValueError(f"{names[0]} is empty: there is nothing to draw")
        raise ValueError(
            f"expected as many {' as '.join(names)}, 1 at least: "
            f"{', '.join(several)} and {last}"
        )


def _is_search(given: Any) -> bool:
    # scikit-learn has no public class of all searches, and dask-ml has its own.
    if isclass(given):
        return False
    return hasattr(given, "return_train_score") or hasattr(given, "cv_results_")


def _what(given: Any) -> str:
    if isclass(given):
        return f"the class {given.__name__}"
    return f"an object of class {type(given).__name__}"


def _where_within(given: Any, kinds: tuple[type, ...]) -> str:
    """Say how to get at the network in a pipeline, a search, or one in the other."""
    path = "search" if _is_search(given) else "pipeline"
    within = given
    while not isinstance(within, kinds):
        if isinstance(within, Pipeline):
            path += "[-1]"
            within = within[-1]
        elif _is_search(within):
            path += ".best_estimator_"
            unfitted = getattr(within, "estimator", None)
            within = getattr(within, "best_estimator_", unfitted)
        else:
            return ""
    return f": pass {path}"
