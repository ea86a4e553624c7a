"""Hypothesis strategies: networks, splits and optimisers of every kind."""

from hypothesis import strategies as st
from scipy.sparse import csr_array, csr_matrix

from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.losses import OUTPUTS
from skdistmlp.nn.update_rules import Adam, AdamW, NAdam, RMSprop, Sgd
from skdistmlp.parallel.split import NetworkSplit

seeds = st.integers(0, 2**32 - 1)

activations = st.sampled_from(sorted(ACTIVATIONS))

outputs = st.sampled_from(sorted(OUTPUTS))
"""Of classifiers and of regressors."""

sparse_formats = st.sampled_from([None, csr_array, csr_matrix])
"""Of features; None for dense ones."""

update_rules = st.one_of(
    st.builds(Sgd, momentum=st.floats(0, 1), nesterov=st.booleans()),
    # Other values would amplify rounding errors to steps of any length.
    st.builds(
        Adam,
        beta_1=st.floats(0, 0.9),
        beta_2=st.floats(0.9, 0.9999),
        epsilon=st.floats(1e-4, 1e-2),
    ),
    st.builds(AdamW, epsilon=st.just(1e-3), weight_decay=st.floats(0, 1)),
    st.builds(RMSprop, rho=st.floats(0.5, 0.999), epsilon=st.just(1e-3)),
    st.builds(NAdam, epsilon=st.just(1e-3)),
)

shares = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5)
"""Uneven, one a shard."""

few_shares = st.lists(st.floats(0.1, 10), min_size=1, max_size=3)
"""The same, where each shard is trained in several replicas."""

layer_units = st.builds(
    lambda n_features, hidden, n_outputs: (n_features, *hidden, n_outputs),
    st.integers(1, 6),
    st.lists(st.integers(1, 9), max_size=3),
    st.integers(1, 4),
)
"""Features, none to three hidden layers, outputs."""

splits = st.one_of(
    st.builds(NetworkSplit.by_shares, layer_units, shares),
    st.builds(NetworkSplit.even, layer_units, st.integers(1, 5)),
)
"""Some with more shards than a layer has neurons."""
