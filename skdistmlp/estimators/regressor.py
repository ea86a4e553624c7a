"""The distributed counterpart of scikit-learn's ``MLPRegressor``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPRegressor
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if

from skdistmlp.estimators._sklearn import StrOptions, fit_context
from skdistmlp.estimators.base import BaseDistributedMLP
from skdistmlp.estimators.constraints import solver_has_epochs
from skdistmlp.estimators.inputs import InputFeatures, compute_collections
from skdistmlp.nn.types import FloatArray
from skdistmlp.training.hold_out import Score

if TYPE_CHECKING:
    from distributed import Client


class DistributedMLPRegressor(RegressorMixin, BaseDistributedMLP):
    """Multilayer perceptron regressor, split by neurons over Dask workers.

    Minimises the squared error or the Poisson deviance, with the answers of
    scikit-learn's ``MLPRegressor`` to rounding. A network with at least
    `parameter_threshold` parameters is shared by the workers of a Dask
    cluster, each of which holds some of the neurons of every layer; a smaller
    one trains and predicts in this process.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, default="squared_error"
        Half the squared error; or half the Poisson deviance, for targets that
        are not negative, of which the network then learns the logarithm.
    hidden_layer_sizes : array-like of shape (n_layers - 2,), default=(100,)
        Numbers of neurons of the hidden layers.
    activation : {"identity", "logistic", "tanh", "relu"}, default="relu"
        Activation of the hidden layers.
    solver : {"lbfgs", "sgd", "adam"}, default="adam"
        How weights are optimised: over all rows at once by SciPy's L-BFGS, or
        over mini-batches by gradient descent or Adam.
    alpha : float, default=0.0001
        Strength of the L2 penalty, which is divided by the number (or weight)
        of the samples of a mini-batch.
    batch_size : int or "auto", default="auto"
        Rows of a mini-batch; "auto" is ``min(200, n_samples)``.
    learning_rate : {"constant", "invscaling", "adaptive"}, default="constant"
        How the learning rate changes; for "sgd" only.
    learning_rate_init : float, default=0.001
        Initial learning rate.
    power_t : float, default=0.5
        Exponent of "invscaling"; for "sgd" only.
    max_iter : int, default=200
        The most epochs, or iterations of "lbfgs".
    shuffle : bool, default=True
        Whether to shuffle the samples in each epoch.
    random_state : int, RandomState instance or None, default=None
        Source of initial weights, held-out rows and shuffles. The same number
        gives the weights that scikit-learn would start from.
    tol : float, default=1e-4
        The least improvement of the loss, or of the validation score, that
        counts as one.
    verbose : bool, default=False
        Whether to print a line an epoch.
    warm_start : bool, default=False
        Whether `fit` goes on from the weights of the last call.
    momentum : float, default=0.9
        Momentum; for "sgd" only.
    nesterovs_momentum : bool, default=True
        Whether to use Nesterov's momentum; for "sgd" only.
    early_stopping : bool, default=False
        Whether to hold out rows, stop when their score no longer improves, and
        keep the weights that scored best.
    validation_fraction : float, default=0.1
        Share of the rows to hold out.
    beta_1 : float, default=0.9
        Decay of the first moment; for "adam" only.
    beta_2 : float, default=0.999
        Decay of the second moment; for "adam" only.
    epsilon : float, default=1e-8
        Keeps denominators from zero; for "adam" only.
    n_iter_no_change : int, default=10
        Epochs without an improvement by `tol` after which training ends.
    max_fun : int, default=15000
        The most evaluations of the loss; for "lbfgs" only.
    client : Client, str or None, default=None
        A Dask client, the address of a scheduler, or None for the active
        client; inside a Dask task, that is its worker's own. Clones and copies
        share a live client, pickles leave it out; an address is kept.
    n_workers : int or None, default=None
        How many workers share the network; None for all of the cluster.
    parameter_threshold : int, default=50_000
        Networks with fewer parameters stay in this process; 0 always
        distributes. Without a cluster every network stays.
    engine : {"auto", "local", "futures", "peers"}, default="auto"
        "peers" lets the workers train by themselves, each its neurons, and talk
        to each other directly; "futures" makes each layer's computation on each
        worker a Dask task; "local" stays in this process. "auto" trains with
        "peers". All but "futures" predict where it should be faster. Below
        `parameter_threshold` every engine trains in this process.

    Attributes
    ----------
    loss_ : float
        Loss of the last epoch, or at the end of "lbfgs", which has no curve, no
        best loss and no scores.
    best_loss_ : float or None
        The lowest loss; None with early stopping.
    loss_curve_ : list of float
        Loss of every epoch.
    validation_scores_ : list of float or None
        R squared on the held-out rows after every epoch, with early stopping.
    best_validation_score_ : float or None
        The best of them.
    t_ : int
        Samples trained on in all.
    coefs_ : list of ndarray of shape (fan_in, fan_out)
        Weights of each layer.
    intercepts_ : list of ndarray of shape (fan_out,)
        Intercepts of each layer.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if all are strings.
    n_iter_ : int
        Epochs, or iterations of "lbfgs", of the last call.
    n_layers_ : int
        Number of layers, with input and output.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        Name of the output activation.
    engine_ : {"local", "futures", "peers"}
        The engine that trained.
    n_workers_ : int
        How many workers held a part of the network.
    plan_ : Plan
        Which worker held which neurons, and why this engine was chosen; print
        it.

    See Also
    --------
    sklearn.neural_network.MLPRegressor : The same on one machine.
    DistributedMLPClassifier : For classes.

    Notes
    -----
    Fitting raises `ClusterError` when the cluster cannot be reached, has too few
    workers or too little memory, `WorkerLostError` when a worker goes away,
    `ExchangeError` when shards do not hear of each other in time, and ``ValueError``
    where scikit-learn does. Whatever happens, nothing of a fit is left on the cluster
    but rows, kept for later calls within ``skdistmlp.cache.max-bytes`` and
    ``skdistmlp.cache.ttl``.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from skdistmlp import DistributedMLPRegressor
    >>> X, y = make_regression(n_features=8, random_state=0)
    >>> mlp = DistributedMLPRegressor(solver="lbfgs", random_state=0).fit(X, y)
    >>> mlp.predict(X).shape
    (100,)
    """

    # Pickles name the public path, whatever room this is in.
    __module__ = "skdistmlp"

    _sklearn_class = MLPRegressor
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseDistributedMLP._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson"})],
    }

    def __init__(
        self,
        loss: Literal["squared_error", "poisson"] = "squared_error",
        hidden_layer_sizes: Sequence[int] | int = (100,),
        activation: Literal["identity", "logistic", "tanh", "relu"] = "relu",
        *,
        solver: Literal["lbfgs", "sgd", "adam"] = "adam",
        alpha: float = 0.0001,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: Literal["constant", "invscaling", "adaptive"] = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        max_fun: int = 15000,
        client: "Client | str | None" = None,
        n_workers: int | None = None,
        parameter_threshold: int | None = None,
        engine: Literal["auto", "local", "futures", "peers"] = "auto",
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.client = client
        self.n_workers = n_workers
        self.parameter_threshold = parameter_threshold
        self.engine = engine

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Train on all samples, epoch after epoch.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features. float32 trains in float32, all else in float64. The
            weights that "lbfgs" ends with are float64.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Target values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        DistributedMLPRegressor
            The trained estimator.

        Raises
        ------
        ValueError
            For input that scikit-learn refuses too, for negative targets with
            the Poisson loss, and when the weights become infinite.
        ClusterError
            When the cluster cannot be reached, has too few workers, or one of them
            has too little memory.
        WorkerLostError
            When a worker goes away; call again to start over.
        ExchangeError
            When shards do not hear of each other in time; the same holds.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    @available_if(solver_has_epochs)
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Train for one epoch more.

        The estimator holds everything between calls: it may be pickled, other
        workers or another engine may go on, and edited `coefs_` count.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Target values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        DistributedMLPRegressor
            The trained estimator.

        Raises
        ------
        ValueError
            For input that scikit-learn refuses too.
        ClusterError
            When the cluster cannot be reached, has too few workers, or one of them
            has too little memory.
        WorkerLostError
            When a worker goes away; the estimator is as it was before.
        ExchangeError
            When shards do not hear of each other in time; the same holds.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: ArrayLike) -> FloatArray:
        """Predict target values.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predicted values; of a Dask collection, a Dask array that is computed when
            you ask for it.
        """
        return self._predicted(X, _ravelled)

    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return R squared of predictions.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features; a collection stays where it is.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            The mean over outputs.
        """
        truth, values, weight = compute_collections(
            self.client, y, self.predict(X), sample_weight
        )
        return float(r2_score(truth, values, sample_weight=weight))

    def _validate_targets(
        self, X: InputFeatures, y: Any, incremental: bool, reset: bool
    ) -> tuple[InputFeatures, np.ndarray]:
        """Return validated features, and targets with one column per output."""
        X, y = X.validated(self, y, reset, y_numeric=True)
        if issparse(y):
            raise ValueError("the targets y are sparse; pass y.toarray() instead")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not (np.issubdtype(y.dtype, np.number) or y.dtype == np.bool_):
            y = y.astype(np.float64)
        y = y.reshape(len(y), -1)
        if self.loss == "poisson" and y.min() < 0:
            raise ValueError(
                f"loss='poisson' needs targets that are not negative, but the least "
                f"of y is {y.min()}. Shift y, or use loss='squared_error'."
            )
        if not reset and y.shape[1] != self.n_outputs_:
            raise ValueError(
                f"the network has {self.n_outputs_} outputs, but y has {y.shape[1]}. "
                f"Give as many as before, or fit anew with warm_start=False."
            )
        return X, y

    def _output(self) -> str:
        return {"squared_error": "identity", "poisson": "exp"}[self.loss]

    def _use_stratified_split(self, n_outputs: int) -> bool:
        return False

    def _score_function(self) -> Score:
        return r_squared


def r_squared(
    y: np.ndarray, outputs: FloatArray, sample_weight: FloatArray | None
) -> float:
    """Return R squared of outputs, as scikit-learn does for early stopping."""
    if not np.isfinite(outputs).all():
        return float("nan")
    return float(r2_score(y, _ravelled(outputs), sample_weight=sample_weight))


def _ravelled(outputs: FloatArray) -> FloatArray:
    """Return a single output as one dimension."""
    return outputs.ravel() if outputs.shape[1] == 1 else outputs
