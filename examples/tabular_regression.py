"""Regression on a pandas table with categories and missing values
===============================================================

From tabular data with numbers, categories and missing values to the score of a network,
and to predictions for rows that are new.
"""

import numpy as np
import pandas as pd
from distributed import Client, SubprocessCluster
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skdistmlp import DistributedMLPRegressor

# %%
# 1. The table
# ------------
#
# Flats and their rents, made up here so that nothing has to be downloaded. Your own
# table may come from ``pd.read_csv`` or ``pd.read_parquet``. One in ten years and one
# in twenty heatings are missing.

N_FLATS = 4000
PER_SQUARE_METRE = {"centre": 16, "east": 9, "north": 11, "south": 12, "west": 10}

rng = np.random.default_rng(0)
flats = pd.DataFrame(
    {
        "area": rng.gamma(9, 8, N_FLATS).round(1),
        "floor": rng.integers(0, 8, N_FLATS),
        "year": rng.integers(1900, 2026, N_FLATS).astype(float),
        "district": rng.choice(list(PER_SQUARE_METRE), N_FLATS),
        "heating": rng.choice(["district heat", "gas", "heat pump"], N_FLATS),
    }
)
rent = flats["area"] * flats["district"].map(PER_SQUARE_METRE)
rent *= 1 + ((flats["year"] - 1960) / 100) ** 2
rent -= 40 * (flats["heating"] == "gas")
rent += rng.normal(0, 50, N_FLATS)

flats.loc[rng.random(N_FLATS) < 0.1, "year"] = np.nan
flats.loc[rng.random(N_FLATS) < 0.05, "heating"] = np.nan
flats_train, flats_test, rent_train, rent_test = train_test_split(
    flats, rent, random_state=0
)

# %%
# 2. Preprocessing
# ----------------
#
# A network needs numbers of similar size, without gaps. Missing numbers become the
# median, and a column says where; missing categories are a category of their own.

numbers, categories = ["area", "floor", "year"], ["district", "heating"]
preprocess = make_column_transformer(
    (
        make_pipeline(
            SimpleImputer(strategy="median", add_indicator=True), StandardScaler()
        ),
        numbers,
    ),
    (OneHotEncoder(handle_unknown="ignore", sparse_output=False), categories),
)

# %%
# 3. The model
# ------------
#
# The target has to be scaled, too. ``engine="peers"`` has the workers share this small
# network for the sake of the example; with the default, it would train in this process.


def scaling_the_target(regressor):
    """Return a pipeline that ends with a regressor, trained on scaled rents."""
    return TransformedTargetRegressor(
        make_pipeline(preprocess, regressor), transformer=StandardScaler()
    )


network = scaling_the_target(
    DistributedMLPRegressor(
        hidden_layer_sizes=(64, 64),
        engine="peers",
        early_stopping=True,
        learning_rate_init=0.01,
        random_state=0,
    )
)

# %%
# 4. Train and score
# ------------------
#
# A linear model shows what the network adds.

cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
client.wait_for_workers(2)
network.fit(flats_train, rent_train)
client.shutdown()
print(network.regressor_[-1].plan_)

linear = scaling_the_target(LinearRegression()).fit(flats_train, rent_train)
print(f"R2 of the linear model  {linear.score(flats_test, rent_test):.3f}")
print(f"R2 of the network       {network.score(flats_test, rent_test):.3f}")

# %%
# 5. Predict
# ----------
#
# New rows may have gaps, and categories that were not there before. No cluster is
# needed for them.

new = pd.DataFrame(
    {
        "area": [50.0, 50.0, 50.0],
        "floor": [2, 2, 2],
        "year": [2020.0, np.nan, 2020.0],
        "district": ["centre", "centre", "harbour"],
        "heating": ["gas", "gas", np.nan],
    }
)
print(new.assign(rent=network.predict(new).round()).to_string(index=False))
