"""Train with every engine and plan at hand, and compare what comes out."""

import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike
from sklearn.base import is_classifier
from sklearn.utils import check_scalar

from skdistmlp.estimators.base import BaseDistributedMLP
from skdistmlp.estimators.inputs import compute_collections
from skdistmlp.exceptions import counted
from skdistmlp.parity.fits import FitData, Fits, differences
from skdistmlp.parity.report import ParityReport, ParityRow

if TYPE_CHECKING:
    from distributed import Client

    from skdistmlp.cluster._dask import Cluster

SCIKIT_LEARN = "scikit-learn"

TOLERANCES: Mapping[str, float] = MappingProxyType({"float64": 1e-6, "float32": 1e-4})
"""Largest relative difference that passes for rounding, by dtype of the features.

From ``python -m benchmarks parity``; docs/parity.md has what it measured. They leave
room for other machines and for more steps, since rounding grows from step to step, and
are still far below what a wrong gradient does.
"""


def check_parity(
    estimator: BaseDistributedMLP,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    n_epochs: int = 3,
    client: "Client | Cluster | str | None" = None,
    max_workers: int | None = None,
    engines: str | Collection[str] | None = None,
    tolerance: float | None = None,
    **fit_params: Any,
) -> ParityReport:
    """Check that every engine and plan at hand gives the same answer on your data.

    Copies of the estimator train for a few epochs with scikit-learn, with "local" and,
    where there is a Dask client, with "futures" and "peers" on 1, 2 and more workers,
    all from the same seed; "peers" also in as many replicas as the estimator asks for.
    Their parameters, loss curves and predictions for `X` are compared with
    scikit-learn's. If the estimator has a parameter that scikit-learn has no
    counterpart for, they are compared with those of "local", and the report names it.
    The estimator itself is neither trained nor changed.

    Parameters
    ----------
    estimator : DistributedMLPClassifier or DistributedMLPRegressor
        Its parameters are used, except `max_iter`, `verbose` and those that choose an
        engine. Callbacks are not called.
    X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
        Features. A Dask collection stays on its workers where the cluster trains, and
        is computed for scikit-learn, for "local" and for predictions.
    y : array-like, sparse matrix or Dask collection
        Targets, as `fit` takes them.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples.
    n_epochs : int, default=3
        Number of epochs, or of iterations of "lbfgs"; takes the place of `max_iter`.
        Rounding grows from step to step, so a longer check needs a higher tolerance.
    client : Client, Cluster or str, default=None
        Where "futures" and "peers" train. None for the client of the estimator or, if
        it has none, for the active one; without any, only "local" is compared.
    max_workers : int, default=None
        Largest number of workers; None for all of the cluster.
    engines : str or collection of str, default=None
        Engines to compare, such as ``"peers"``; None for all.
    tolerance : float, default=None
        Largest difference that passes, 0 or more; None for 1e-6 in float64 and 1e-4 in
        float32.
    **fit_params
        Passed on to `fit`. Those that scikit-learn's `fit` lacks are named like
        parameters.

    Returns
    -------
    ParityReport
        The differences. Print it, ``assert`` it, or call its `raise_if_failed`.

    Raises
    ------
    TypeError
        If `estimator` is something else, such as a pipeline, or a number or a name is
        of another type.
    ValueError
        If the data or a parameter is invalid, or there is nothing to compare.
    ClusterError
        If the cluster cannot be reached. What goes wrong later, while one plan trains,
        is in its row, which fails; the others are still compared.
    KeyboardInterrupt
        If you press Ctrl-C; nothing is returned then.

    See Also
    --------
    ParityReport : What it returns.

    Notes
    -----
    Differences are relative, so that they can be compared with the precision of a dtype
    whatever the units of the data: of losses to the largest of the curve, of a
    regressor's predictions to the largest of that output. Probabilities are compared as
    they are. Parameters are compared layer by layer: the norm of the difference divided
    by the norm of the layer, intercepts included. Relative to each number alone, the
    difference of those near zero would say nothing, since rounding errors of a sum are
    relative to its terms.

    With float32 features, a regressor's targets are converted to float32 to compare it
    with scikit-learn, which would compute gradients in float64 otherwise.

    Without a `random_state`, or with a ``RandomState``, the fits take an integer that
    the report names.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdistmlp import DistributedMLPClassifier, check_parity
    >>> X, y = load_digits(return_X_y=True)
    >>> report = check_parity(DistributedMLPClassifier(random_state=0), X / 16, y)
    >>> report.passed
    True
    """
    if not isinstance(estimator, BaseDistributedMLP):
        raise TypeError(
            f"check_parity takes a DistributedMLPClassifier or "
            f"DistributedMLPRegressor, but was given {type(estimator).__name__}. Of a "
            f"pipeline, pass the last step, and X as the steps before transform it."
        )
    check_scalar(n_epochs, "n_epochs", Integral, min_val=1)
    if max_workers is not None:
        check_scalar(max_workers, "max_workers", Integral, min_val=1)
    if estimator.n_replicas is not None:
        check_scalar(estimator.n_replicas, "n_replicas", Integral, min_val=1)
    if tolerance is not None:
        check_scalar(tolerance, "tolerance", Real, min_val=0)
    known = tuple(estimator._engines)
    engines = (engines,) if isinstance(engines, str) else engines
    if unknown := [engine for engine in engines or () if engine not in known]:
        raise ValueError(f"there are no engines {unknown}: pass some of {list(known)}.")
    fit_params = {"sample_weight": sample_weight, **fit_params}
    fit_params = {k: value for k, value in fit_params.items() if value is not None}
    wanted = known if engines is None else tuple(e for e in known if e in engines)
    client = estimator.client if client is None else client
    with _connection(client) as connection:
        X_here, y_here, *values = compute_collections(
            connection, X, y, *fit_params.values()
        )
        here = FitData(X_here, y_here, dict(zip(fit_params, values, strict=True)))
        fits = Fits(estimator, n_epochs, here, FitData(X, y, fit_params), connection)
        return _compare(fits, wanted, max_workers, tolerance)


@contextmanager
def _connection(client: "Client | Cluster | str | None") -> Iterator["Client | None"]:
    """Yield the client to use, the same for all fits; None if there is none."""
    # Without an import of distributed nobody can have made a client.
    if client is None and "distributed" not in sys.modules:
        yield None
        return
    from skdistmlp.cluster.client.lookup import connected

    with connected(client) as connection:
        yield connection


def _compare(
    fits: Fits, engines: Sequence[str], max_workers: int | None, limit: float | None
) -> ParityReport:
    """Train with each engine and number of workers, and compare."""
    dtype = fits.dtype
    limit = TOLERANCES[dtype] if limit is None else limit
    missing, notes = fits.without_counterpart(), []
    if not isinstance(fits.estimator.random_state, Integral):
        notes.append(
            f"random_state={fits.seed} was chosen, as the estimator's is no integer"
        )
    reference, expected = "local", None
    if not missing:
        if fits.match_targets():
            notes.append("y was converted to float32, as X is")
        try:
            reference, expected = SCIKIT_LEARN, fits.of_scikit_learn()
        except Exception as error:
            # If the data are to blame, "local" raises too. There are cases, in
            # docs/differences.md, in which only scikit-learn does.
            reference = "local"
            notes.append(
                f"Compared with local, since scikit-learn raised {_said(error)}"
            )
    if expected is None:
        expected = fits.of("local")

    def row(engine: str, n_workers: int, n_replicas: int | None = None) -> ParityRow:
        try:
            answer = fits.of(engine, n_workers, n_replicas)
        except Exception as error:
            nothing = (math.inf,) * 3
            failed = ParityRow(engine, n_workers, reference, *nothing, limit)
            return replace(failed, error=_said(error), n_replicas=n_replicas or 1)
        found = differences(answer, expected, is_classifier(fits.estimator))
        compared = ParityRow(engine, answer.n_workers, reference, *found, limit)
        return replace(compared, n_replicas=answer.n_replicas)

    rows = []
    if reference == SCIKIT_LEARN and "local" in engines:
        rows.append(row("local", 1))
    distributed = [engine for engine in engines if engine != "local"]
    n_present = _n_workers(fits.client)
    if distributed and not n_present:
        where = "no Dask client" if fits.client is None else "no worker"
        notes.append(f"Not compared: {' and '.join(distributed)}, as there is {where}")
    most = n_present if max_workers is None else min(max_workers, n_present)
    wanted = fits.estimator.n_replicas
    if distributed and "peers" in distributed and (wanted or 1) > most > 0:
        notes.append(
            f"Not compared: n_replicas={wanted}, as there "
            f"{'is' if most == 1 else 'are'} {counted(most, 'worker')}"
        )
    for engine in distributed:
        # Without a wish, the rule chooses; "futures" has no replicas.
        of_engine = [wanted] if wanted is None else [1, wanted]
        for n_replicas in dict.fromkeys(of_engine if engine == "peers" else [None]):
            step = n_replicas or 1
            for n_workers in range(step, most + 1, step):
                compared = row(engine, n_workers, n_replicas)
                if compared.n_workers < n_workers:
                    # The network has no more neurons to share.
                    break
                rows.append(compared)
    if not rows:
        lacking = f"scikit-learn has no {' and no '.join(missing)}; " if missing else ""
        raise ValueError(
            f"there is nothing to compare {reference} with: {lacking}engines are "
            f"{list(engines)}, workers of the client {n_present}. Pass client=, "
            f"start workers, or allow more engines."
        )
    return ParityReport(
        tuple(rows), dtype, fits.n_epochs, fits.seed, missing, tuple(notes)
    )


def _n_workers(client: "Client | None") -> int:
    if client is None:
        return 0
    from skdistmlp.cluster.client.workers import workers_of

    return len(workers_of(client))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
