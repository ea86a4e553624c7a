"""The distributed counterpart of scikit-learn's ``MLPClassifier``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels
from sklearn.utils.validation import check_is_fitted

from skdistmlp.estimators._sklearn import (
    Interval,
    StrOptions,
    check_partial_fit_first_call,
    check_sample_weight,
    fit_context,
)
from skdistmlp.estimators.base import BaseDistributedMLP
from skdistmlp.estimators.constraints import solver_has_epochs
from skdistmlp.estimators.habits import check_is_computed
from skdistmlp.estimators.inputs import InputFeatures, compute_collections, ravel_column
from skdistmlp.nn.activations import Activation
from skdistmlp.nn.losses import Output, Targets
from skdistmlp.nn.parametric_losses import SmoothedLabels
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.class_codes import ClassCodes
from skdistmlp.public import public
from skdistmlp.training.hold_out import Score

if TYPE_CHECKING:
    from distributed import Client

    from skdistmlp.cluster._dask import Cluster


@public
class DistributedMLPClassifier(ClassifierMixin, BaseDistributedMLP):
    """Multilayer perceptron classifier, split by neurons over Dask workers.

    A drop-in replacement for scikit-learn's ``MLPClassifier``, with the same results
    up to rounding: it minimises the log loss. The workers of a Dask cluster share a
    large network, each holding some of the neurons of every layer. A network with
    fewer parameters than `parameter_threshold`, or any network without a cluster,
    trains and predicts in this process.

    Parameters
    ----------
    hidden_layer_sizes : array-like of shape (n_layers - 2,), default=(100,)
        Numbers of neurons of the hidden layers.
    activation : str, Activation or sequence of these, default="relu"
        Activation of the hidden layers, or of each of them: "identity", "logistic",
        "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish",
        "softplus", or an `Activation` of your own.
    solver : {"lbfgs", "sgd", "adam", "adamw", "rmsprop", "nadam"}, default="adam"
        The optimiser: SciPy's L-BFGS over all rows at once, or one that takes steps
        over mini-batches. "adamw" is Adam with decoupled `weight_decay`.
    alpha : float, default=0.0001
        Strength of the L2 penalty, which is divided by the number of samples in a
        mini-batch, or by the sum of their sample weights.
    batch_size : int or "auto", default="auto"
        Number of rows per mini-batch; "auto" is ``min(200, n_samples)``.
    learning_rate : str or callable, default="constant"
        Schedule of the learning rate: "constant"; for "sgd", "invscaling" or
        "adaptive"; or, from step to step, "cosine" or "one_cycle". A callable is given
        the fraction of training that is done, from 0 to almost 1 at `max_iter` epochs,
        and returns a factor on `learning_rate_init`.
    learning_rate_init : float, default=0.001
        Initial learning rate; the highest of "one_cycle".
    power_t : float, default=0.5
        Exponent of "invscaling"; for "sgd" only.
    max_iter : int, default=200
        Maximum number of epochs, or of iterations of "lbfgs".
    shuffle : bool, default=True
        Whether to shuffle the samples before each epoch.
    random_state : int, RandomState instance or None, default=None
        Draws the initial parameters, the held-out rows and the shuffles. An integer
        gives the same initial parameters as in scikit-learn.
    tol : float, default=1e-4
        Minimum improvement of the loss, or of the validation score.
    verbose : bool, default=False
        Whether to print one line per epoch.
    warm_start : bool, default=False
        Whether `fit` continues from the parameters of the previous call.
    momentum : float, default=0.9
        Momentum; for "sgd" only.
    nesterovs_momentum : bool, default=True
        Whether to use Nesterov's momentum; for "sgd" only.
    early_stopping : bool, default=False
        Whether to stop when the score of the rows for validation no longer improves,
        and keep the parameters that scored best.
    validation_fraction : float, default=0.1
        Fraction of the rows to hold out for early stopping, unless `fit` is given
        others as ``X_val``.
    beta_1 : float, default=0.9
        Decay of the first moment; for "adam", "adamw" and "nadam" only.
    beta_2 : float, default=0.999
        Decay of the second moment; for "adam", "adamw" and "nadam" only.
    epsilon : float, default=1e-8
        Keeps denominators from being zero; not for "sgd" and "lbfgs".
    n_iter_no_change : int, default=10
        Number of epochs without an improvement of `tol` after which training ends.
    max_fun : int, default=15000
        Maximum number of evaluations of the loss; for "lbfgs" only.
    dropout : float or sequence of float, default=0.0
        Share of the values that are dropped in each step of training, and the others
        divided by the share that is kept: of every hidden layer, or, as a sequence,
        of the inputs and of each hidden layer. Rounded to a multiple of 2^-16.
    weight_decay : float, default=0.01
        Coefficients, but not intercepts, shrink by ``weight_decay`` times the learning
        rate in each step; for "adamw" only. `alpha` still applies, as part of
        the loss.
    rho : float, default=0.99
        Decay of the second moment; for "rmsprop" only.
    max_grad_norm : float or None, default=None
        Largest norm of the gradient of all parameters, with that of the penalty; a
        longer one is scaled down.
    warmup_steps : int, default=0
        Number of mini-batches over which the learning rate rises linearly to what the
        schedule says.
    ema_decay : float or None, default=None
        With it, `coefs_` and `intercepts_` are an exponential moving average of the
        parameters over the steps: ``ema_decay`` times the average before plus
        ``1 - ema_decay`` times the new ones. `partial_fit` and warm starts continue
        from the parameters themselves, unless you have edited `coefs_` or
        `intercepts_`, or early stopping has restored the best.
    scoring : str, callable or None, default=None
        Score of the rows for validation, after each epoch: a name of scikit-learn's, a
        callable ``scoring(estimator, X, y)``, or "loss" for minus their mean loss
        without the penalty. None is what `score` returns. A callable is given weights
        as ``sample_weight=`` if there are any and it takes them; its `estimator` can
        predict for this `X` only, and has no `coefs_`.
    label_smoothing : float, default=0.0
        Share of each target that all classes share evenly; for binary and multilabel
        targets, yes and no do.
    class_weight : dict, list of dict, "balanced" or None, default=None
        Weights of the classes, by label. They multiply ``sample_weight``. "balanced"
        weights a class by ``n_samples / (n_classes * n_samples_of_class)``. For
        multilabel targets, a list with one dict per label, with the keys 0 and 1.
    client : Client, Cluster, str or None, default=None
        A Dask client, a cluster such as ``LocalCluster``, the address of a
        scheduler, or None for the active client; inside a Dask task, that is the
        client of its worker. For a cluster or an address, each call connects and
        disconnects. Clones and copies share a live client or cluster, pickles leave
        it out; an address is kept.
    n_workers : int or None, default=None
        Number of workers that share the network. None: with "auto", as many as should
        be fastest, and none for a short fit; otherwise all workers of the cluster, or
        as many of them as `n_replicas` divides.
    n_replicas : int or None, default=None
        Number of groups of workers that each have a copy of the network and compute
        some rows of every mini-batch; in each group, `n_workers` / `n_replicas` workers
        share the neurons. None: with "auto", chosen by measurement; otherwise, and for
        short fits on workers, 1, unless mini-batches are so large that replicas
        exchange less. The result does not depend on it, beyond rounding.
    parameter_threshold : int, "auto" or None, default=None
        Networks with fewer parameters are trained and used locally, whatever the
        engine. None reads the setting ``skdistmlp.parameter-threshold`` (50,000
        unless you change it) for ``engine="auto"``, and means 0 for an engine that
        you name; 0 always distributes. "auto" is no threshold: fits of any network go
        where they should be fastest. Without a client, everything runs locally.
    engine : {"auto", "local", "futures", "peers"}, default="auto"
        How to train. With "peers", each worker trains its own neurons and exchanges
        activations with the others directly. With "futures", each layer's
        computation on each worker is a Dask task. "local" runs in this process.
        "auto" measures the workers and this process if a network reaches the
        threshold and its training should take half a second or more, and takes the
        fastest plan, local included; shorter fits are local, unless the workers were
        measured before (see `plan_fit`). Predictions run where they should be faster,
        except with "local" and "futures", which hold for them too.
    checkpoint : str, path-like or None, default=None
        A directory, or a URL that fsspec knows. `fit` saves its state there now and
        then, and removes the file at the end. If it was cut off, the next `fit` with
        the same parameters and data resumes from that file, in any process, on any
        engine and number of workers, and gives the answer of an undisturbed fit, except
        that "lbfgs" starts again from its last iterate.
        `partial_fit` saves nothing.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    loss_ : float
        Loss of the last epoch, or at the end of "lbfgs", which has no loss curve,
        best loss or scores. NaN if an interrupt came before the end of an epoch.
    best_loss_ : float or None
        Lowest loss; None with early stopping.
    loss_curve_ : list of float
        Loss of each epoch.
    validation_scores_ : list of float or None
        Score of the rows for validation after each epoch, if there are any; see
        `scoring`.
    validation_loss_curve_ : list of float or None
        Their mean loss after each epoch, without the penalty. NaN after an epoch of a
        call without such rows, if another call had some.
    best_validation_score_ : float or None
        Highest of the validation scores.
    best_iter_ : int or None
        Epoch of the highest validation score, from 1, as `loss_curve_` counts them.
    t_ : int
        Total number of samples trained on.
    coefs_ : list of ndarray of shape (fan_in, fan_out)
        Coefficients of each layer.
    intercepts_ : list of ndarray of shape (fan_out,)
        Intercepts of each layer.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if all are strings.
    n_iter_ : int
        Number of epochs, or of iterations of "lbfgs", in the last call.
    n_layers_ : int
        Number of layers, including input and output.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        Name of the output activation.
    engine_ : {"local", "futures", "peers"}
        The engine that trained.
    n_workers_ : int
        Number of workers that trained, each with one shard of the network; 1 if
        training was local.
    n_replicas_ : int
        Number of copies of the network that were trained together.
    plan_ : Plan
        Which worker held which neurons, and why this engine was chosen. Print it to
        read it.
    recoveries_ : tuple of Recovery
        What happened if the fit went on on other workers; usually empty.

    See Also
    --------
    sklearn.neural_network.MLPClassifier : The same on one machine.

    Notes
    -----
    Invalid parameters and data raise ``ValueError`` or ``TypeError``, as in
    scikit-learn. Whatever goes wrong on the cluster raises a `ClusterError`, of which
    `WorkerLostError` and `ExchangeError` are kinds; the estimator is then as it was
    before the call. However a fit ends, it leaves nothing on the cluster
    but rows, kept for later calls within ``skdistmlp.cache.max-bytes`` and
    ``skdistmlp.cache.ttl``.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdistmlp import DistributedMLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = DistributedMLPClassifier(random_state=0).fit(X / 16, y)
    >>> clf.engine_
    'local'
    """

    _sklearn_class = MLPClassifier
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseDistributedMLP._parameter_constraints,
        "class_weight": [None, dict, list, StrOptions({"balanced"})],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] | int = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu",
        *,
        solver: Literal["lbfgs", "sgd", "adam", "adamw", "rmsprop", "nadam"] = "adam",
        alpha: float = 0.0001,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: Literal[
            "constant", "invscaling", "adaptive", "cosine", "one_cycle"
        ]
        | Callable[[float], float] = "constant",
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
        dropout: float | Sequence[float] = 0.0,
        weight_decay: float = 0.01,
        rho: float = 0.99,
        max_grad_norm: float | None = None,
        warmup_steps: int = 0,
        ema_decay: float | None = None,
        scoring: str | Callable[..., float] | None = None,
        label_smoothing: float = 0.0,
        class_weight: dict[Any, float]
        | list[dict[int, float]]
        | Literal["balanced"]
        | None = None,
        client: "Client | Cluster | str | None" = None,
        n_workers: int | None = None,
        n_replicas: int | None = None,
        parameter_threshold: int | Literal["auto"] | None = None,
        engine: Literal["auto", "local", "futures", "peers"] = "auto",
        checkpoint: str | PathLike[str] | None = None,
    ) -> None:
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
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.rho = rho
        self.max_grad_norm = max_grad_norm
        self.warmup_steps = warmup_steps
        self.ema_decay = ema_decay
        self.scoring = scoring
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.client = client
        self.n_workers = n_workers
        self.n_replicas = n_replicas
        self.parameter_threshold = parameter_threshold
        self.engine = engine
        self.checkpoint = checkpoint

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Self:
        """Train on all samples, for as many epochs as needed.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features. float32 trains in float32, everything else in float64; the
            final parameters of "lbfgs" are float64.
        y : array-like or sparse matrix, shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or a binary indicator matrix.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.
        X_val : array-like, sparse matrix or Dask collection, default=None
            Features of rows for validation: they are not trained on, and take the
            place of `validation_fraction`.
        y_val : array-like, default=None
            Their targets, in the form of `y`.
        sample_weight_val : array-like of shape (n_validation_samples,), default=None
            Their weights. `class_weight` does not apply to them.

        Returns
        -------
        DistributedMLPClassifier
            The trained estimator.

        Raises
        ------
        ValueError
            If scikit-learn would refuse the input too, or if the parameters
            become infinite.
        TypeError
            If the data are Dask futures or delayed values, or are no table.
        ClusterError
            If the cluster cannot be reached, or has too few workers or too little
            memory.
        WorkerLostError
            If a worker is lost; call again to start over on the others.
        ExchangeError
            If the shards cannot exchange what a step needs in time; call again.
        """
        return self._fit(
            X,
            y,
            sample_weight,
            incremental=False,
            X_val=X_val,
            y_val=y_val,
            sample_weight_val=sample_weight_val,
        )

    @available_if(solver_has_epochs)
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Self:
        """Train for one more epoch.

        All state lives in the estimator, so you can pickle it, edit `coefs_`, and
        continue on another engine or on other workers. As in scikit-learn, the
        optimiser of the first call continues: `solver`, its parameters, the learning
        rate, `warmup_steps` and `ema_decay` stay as they were then. Others, such as
        `dropout` and `max_grad_norm`, are those of the call.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features.
        y : array-like or sparse matrix, shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or a binary indicator matrix.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.
        classes : array-like of shape (n_classes,), default=None
            All classes that will occur; required in the first call.
        X_val : array-like, sparse matrix or Dask collection, default=None
            Features of rows for validation: they are not trained on, and take the
            place of `validation_fraction`.
        y_val : array-like, default=None
            Their targets, in the form of `y`.
        sample_weight_val : array-like of shape (n_validation_samples,), default=None
            Their weights. `class_weight` does not apply to them.

        Returns
        -------
        DistributedMLPClassifier
            The trained estimator.

        Raises
        ------
        ValueError
            If scikit-learn would refuse the input too, or with
            ``class_weight="balanced"``.
        TypeError
            If the data are Dask futures or delayed values, or are no table.
        ClusterError
            If the cluster cannot be reached, or has too few workers or too little
            memory. The estimator is then as it was before the call.
        WorkerLostError
            If a worker is lost.
        ExchangeError
            If the shards cannot exchange what a step needs in time.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' cannot be used with partial_fit, which does "
                "not see all samples. Pass the weights as a dict, from "
                "sklearn.utils.class_weight.compute_class_weight."
            )
        return self._fit(
            X,
            y,
            sample_weight,
            incremental=True,
            classes=classes,
            X_val=X_val,
            y_val=y_val,
            sample_weight_val=sample_weight_val,
        )

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predict classes.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray or sparse matrix, shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or a binary indicator matrix, sparse if `y` was. For a Dask
            collection, a lazy Dask array.
        """
        check_is_fitted(self)
        return self._compute_outputs(X, partial(_labels, self._label_binarizer))

    def predict_proba(self, X: ArrayLike) -> FloatArray:
        """Predict class probabilities.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of `classes_`; see `predict`.
        """
        return self._compute_outputs(X, _probabilities)

    def predict_log_proba(self, X: ArrayLike) -> FloatArray:
        """Predict logarithms of class probabilities.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Logarithms of what `predict_proba` returns.
        """
        return self._compute_outputs(X, _log_probabilities)

    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return the accuracy of the predictions.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features; a Dask collection stays on its workers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            Fraction of the samples, by weight, whose labels are all correct.
        """
        check_is_computed(y=y, sample_weight=sample_weight)
        truth, labels, weight = compute_collections(
            self.client, y, self.predict(X), sample_weight
        )
        return float(accuracy_score(truth, labels, sample_weight=weight))

    def _validate_targets(
        self, X: InputFeatures, y: Any, incremental: bool, reset: bool
    ) -> tuple[InputFeatures, np.ndarray]:
        """Return validated features, and one boolean column per output."""
        X, y = X.validated(self, y, reset)
        y = ravel_column(y)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(unique_labels(y))
        indicator = self._label_binarizer.transform(y).astype(bool)
        return X, indicator.reshape(len(indicator), -1)

    def _register_classes(self, y: Any, classes: ArrayLike | None) -> None:
        """Take note of the classes that the first `partial_fit` is told of."""
        if check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer()
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer.fit(y if multilabel else classes)

    def _check_classes(self, classes: np.ndarray) -> None:
        """Refuse classes that the network has no output for."""
        if self.warm_start:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as "
                    "in the previous call to fit. Previously got "
                    f"{self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _validate_weights(
        self, y: np.ndarray, sample_weight: ArrayLike | None
    ) -> FloatArray | None:
        """Return the weights of the samples times those of their classes."""
        weight = super()._validate_weights(y, sample_weight)
        if self.class_weight is None:
            return weight
        if self._label_binarizer.y_type_.startswith("multilabel"):
            weights = self.class_weight
            if isinstance(weights, list) and not any(set(w) - {0, 1} for w in weights):
                # A batch of partial_fit may lack a label that has a weight.
                weights = [{0: 1.0, 1: 1.0} | w for w in weights]
            factor = compute_sample_weight(weights, y.astype(int))
        else:
            columns = y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0].astype(int)
            by_class = compute_class_weight(
                self.class_weight, classes=self.classes_, y=self.classes_[columns]
            )
            factor = by_class[columns]
        return check_sample_weight(factor if weight is None else weight * factor, y)

    def _output(self) -> str | Output:
        multiclass = self._label_binarizer.y_type_ == "multiclass"
        name = "softmax" if multiclass else "logistic"
        if self.label_smoothing:
            return SmoothedLabels(name, float(self.label_smoothing))
        return name

    def _use_stratified_split(self, n_outputs: int) -> bool:
        return n_outputs == 1

    def _score_function(self) -> Score:
        return Accuracy(self._label_binarizer)

    def _validation_targets(self, y: np.ndarray) -> np.ndarray:
        """Return one boolean column per output; classes that are missing are fine."""
        kind, expected = type_of_target(y), self._label_binarizer.y_type_
        several = expected.startswith("multilabel")
        # Of a few classes there may be two only, and of one value that is binary too.
        fits = kind in ("binary", "multiclass") and y.ndim == 1
        if several:
            fits = kind.startswith("multilabel") and y.shape[1] == len(self.classes_)
        if not fits:
            raise ValueError(
                f"y_val is {kind} and has the shape {y.shape}, but y is {expected}, "
                f"with {len(self.classes_)} classes. Pass targets of the same kind."
            )
        unknown = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unknown):
            raise ValueError(
                f"y_val has classes that y does not have: {unknown}. The network has "
                f"no output for them. Leave these rows out, or train on some of them."
            )
        indicator = self._label_binarizer.transform(y).astype(bool)
        return indicator.reshape(len(indicator), -1)

    def _stored_targets(self, y: np.ndarray) -> Targets | ClassCodes:
        """Return the targets as every process holds them, for all rows."""
        is_multiclass = self._label_binarizer.y_type_ == "multiclass"
        return ClassCodes.of(y) if is_multiclass else y

    def _targets_as_given(self, y: np.ndarray) -> np.ndarray:
        """Return labels from the columns that they were turned into."""
        return self._label_binarizer.inverse_transform(y)

    def __sklearn_tags__(self) -> Any:
        """Say that multilabel targets are understood."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of outputs, as scikit-learn computes it for early stopping.

    Attributes
    ----------
    label_binarizer : LabelBinarizer
        From outputs to labels.
    """

    label_binarizer: LabelBinarizer

    def __call__(
        self, y: np.ndarray, outputs: FloatArray, sample_weight: FloatArray | None
    ) -> float:
        """Return the score; one column an output in both arrays."""
        truth = self.label_binarizer.inverse_transform(y)
        labels = _labels(self.label_binarizer, outputs)
        if np.issubdtype(labels.dtype, np.floating) and not np.isfinite(labels).all():
            return float("nan")
        return float(accuracy_score(truth, labels, sample_weight=sample_weight))


def _labels(label_binarizer: LabelBinarizer, outputs: FloatArray) -> np.ndarray:
    if outputs.shape[1] == 1:
        outputs = outputs.ravel()
    return label_binarizer.inverse_transform(outputs)


def _probabilities(outputs: FloatArray) -> FloatArray:
    if outputs.shape[1] == 1:
        return np.hstack([1 - outputs, outputs])
    return outputs


def _log_probabilities(outputs: FloatArray) -> FloatArray:
    probability = _probabilities(outputs)
    return np.log(probability, out=probability)
