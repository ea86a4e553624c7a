"""Check what displays are made from."""

from collections.abc import Sized
from inspect import isclass
from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted


def fitted_network(estimator: Any, classes: tuple[type, ...]) -> Any:
    """Return the fitted network of an estimator, a pipeline or a search.

    Parameters
    ----------
    estimator : object
        A network, a pipeline that ends in one, or a search over one of these.
    classes : tuple of type
        Classes of networks to accept.

    Returns
    -------
    estimator
        The network itself, the pipeline's last step, or that of the best estimator.

    Raises
    ------
    TypeError
        If there is no such network.
    NotFittedError
        If it is not fitted.
    ValueError
        If a search kept no best estimator.
    """
    network = estimator
    while not isinstance(network, classes):
        if isinstance(network, Pipeline):
            network = network[-1]
        elif _is_search(network):
            check_is_fitted(network, "cv_results_")
            if not hasattr(network, "best_estimator_"):
                raise ValueError(
                    f"this {type(network).__name__} kept no fitted network: search "
                    f"with refit=True, or pass a fitted network"
                )
            network = network.best_estimator_
        else:
            names = " or ".join(each.__name__ for each in classes)
            raise TypeError(
                f"expected a fitted {names}, or a pipeline or search with one, got "
                f"{_describe(network)}"
            )
    check_is_fitted(network)
    return network


def fitted_search(search: Any) -> Any:
    """Return the fitted search, also of a pipeline that ends in one.

    Parameters
    ----------
    search : object
        A search, such as `GridSearchCV`, or a pipeline whose last step is one.

    Returns
    -------
    estimator
        The search.

    Raises
    ------
    TypeError
        If it is something else, such as a network.
    NotFittedError
        If it is not fitted.
    """
    if isinstance(search, Pipeline):
        search = search[-1]
    if not _is_search(search):
        raise TypeError(
            f"expected a fitted search over n_workers, such as GridSearchCV, got "
            f"{_describe(search)}: pass the search itself, not its best_estimator_"
        )
    check_is_fitted(search, "cv_results_")
    return search


def check_lengths(**sequences: Sized | None) -> None:
    """Raise unless all sequences have the same length, which is not 0.

    Parameters
    ----------
    **sequences : sequence or None
        Sequences by name; those that are None are not checked.

    Raises
    ------
    ValueError
        If they are empty or their lengths differ.
    """
    lengths = {name: len(s) for name, s in sequences.items() if s is not None}
    if len(set(lengths.values())) == 1 and min(lengths.values()) > 0:
        return
    *others, last = (f"{name} ({length})" for name, length in lengths.items())
    if not others:
        raise ValueError(f"{next(iter(lengths))} is empty: there is nothing to draw")
    raise ValueError(
        f"{', '.join(others)} and {last} must have the same length, at least 1"
    )


def _is_search(estimator: Any) -> bool:
    # scikit-learn has no public base class of all searches, and dask-ml has its own.
    if isclass(estimator):
        return False
    return hasattr(estimator, "return_train_score") or hasattr(estimator, "cv_results_")


def _describe(value: Any) -> str:
    if isclass(value):
        return f"the class {value.__name__}"
    return f"an object of class {type(value).__name__}"
