"""Predict with a fitted network: eagerly for arrays, lazily for Dask collections."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from skdistmlp.engines.choice import ENGINES
from skdistmlp.engines.dispatch import plan_prediction, predict
from skdistmlp.engines.engine import EngineFactory, EngineRequest
from skdistmlp.estimators.habits import check_is_computed
from skdistmlp.estimators.inputs import is_collection
from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.split import NetworkSplit, Parameters, layer_units_of
from skdistmlp.parallel.whole_network import WholeNetwork
from skdistmlp.planning.plan import Plan

Finish = Callable[[FloatArray], Any]
"""From outputs, shape (n_samples, n_outputs), to what a method returns."""


@dataclass(frozen=True)
class BlockPrediction:
    """What is predicted for a block of rows, wherever it lies.

    Attributes
    ----------
    outputs : WholeNetwork
        From rows to outputs.
    finish : callable
        From outputs to predictions.
    estimator_name : str
        For messages.
    """

    outputs: WholeNetwork
    finish: Finish
    estimator_name: str

    def __call__(self, X: Any) -> Any:
        """Return the predictions for rows; of none, those of a row cut off."""
        if X.shape[0] == 0:
            dtype = self.outputs.parameters.coefs[0].dtype
            return self(np.zeros((1, X.shape[1]), dtype))[:0]
        X = check_array(
            X,
            accept_sparse=["csr", "csc"],
            input_name="X",
            estimator=self.estimator_name,
        )
        return self.finish(self.outputs(X))


class PredictionMixin:
    """Predict with the parameters at hand, wherever the rows are."""

    _engines: ClassVar[Mapping[str, EngineFactory]] = ENGINES
    """The table of engines, for a subclass to replace."""

    client: Any
    activation: Any
    out_activation_: str
    _engine_request: Callable[[], EngineRequest]
    _parameters: Callable[[], Parameters]

    def _compute_outputs(self, X: Any, finish: Finish) -> Any:
        """Compute the outputs for `X`, finished; lazily for a Dask collection."""
        if (known := vars(self).get("_known_outputs")) is not None:
            # A scorer asks, in training: see `skdistmlp.estimators.scoring`.
            return finish(known.for_rows(X))
        check_is_fitted(self)
        check_is_computed(X=X)
        network, parameters = self._fitted_network(), self._parameters()
        if is_collection(X):
            from skdistmlp.cluster.data.dask_collections import header_of
            from skdistmlp.cluster.prediction.lazy import map_blocks

            validate_data(self, header_of(X), reset=False, skip_check_array=True)
            outputs = WholeNetwork(network, parameters)
            function = BlockPrediction(outputs, finish, type(self).__name__)
            return map_blocks(
                self.client, X, function, parameters.nbytes, parameters.coefs[0]
            )
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        request = self._engine_request()
        return finish(predict(request, network, parameters, X, self._engines))

    def plan_predict(self, X: Any) -> Plan:
        """Return the plan by which `predict` would predict `X`; print it to read why.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features.

        Returns
        -------
        Plan
            Its `engine` is "local" for a prediction in this process. It is "futures"
            on workers, which share the rows or the neurons, as `split_by` says.
        """
        check_is_fitted(self)
        check_is_computed(X=X)
        network, parameters = self._fitted_network(), self._parameters()
        if is_collection(X):
            split = NetworkSplit.even(network.layer_units, 1)
            return _plan_of_collection(split, self.client)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        request = self._engine_request()
        return plan_prediction(request, network, parameters, X, self._engines)

    def _fitted_network(self) -> Network:
        layers = dense_layers(layer_units_of(self._parameters().coefs), self.activation)
        return Network(layers, self.out_activation_)


def _plan_of_collection(split: NetworkSplit, client: Any) -> Plan:
    """Return the plan of a prediction that Dask carries out when it is computed."""
    from skdistmlp.cluster.client.lookup import active_client, address_of

    is_live = client is not None and address_of(client) is None
    if not is_live and active_client() is None:
        reason = (
            "X is a Dask collection and no Dask client is active: when you compute the "
            "prediction, each block of rows meets the whole network on this machine"
        )
        return Plan("local", split, (), reason)
    reason = (
        f"X is a Dask collection: when you compute the prediction"
        f"{' with the client' if is_live else ''}, each block of rows meets the whole "
        f"network on the worker that computes it"
    )
    return Plan("futures", split, (), reason, split_by="rows")
