"""The page on CSV and Parquet files: its code runs, and says what the client gets."""

import re
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.estimators.support import quiet

PAGE = (Path(__file__).parents[3] / "docs" / "csv_parquet.md").read_text()
READ_AND_FIT, ENCODE, AS_ARRAY = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
READ, _, _ = READ_AND_FIT.partition("reg.fit")
OTHER_FORMAT = re.compile(r'dd.read_parquet\("trips"\)  # or (.*)')
N_ROWS, N_FILES = 4000, 4

pytestmark = [
    pytest.mark.slow,
    # Of pandas, to Dask: it sets the index of what it reads in a deprecated way.
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
]


@pytest.fixture
def trips(tmp_path, monkeypatch):
    """Write files in both formats where the page reads them."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "distance": rng.gamma(2.0, 2.0, N_ROWS),
            "hour": rng.integers(0, 24, N_ROWS),
            "passengers": rng.integers(1, 5, N_ROWS),
            "payment": rng.choice(["card", "cash", "voucher"], N_ROWS),
        }
    )
    table["fare"] = 1 + table["distance"] * (1 + 0.3 * (table["hour"] > 20))
    (tmp_path / "trips").mkdir()
    for number in range(N_FILES):
        part = table[number::N_FILES]
        part.to_parquet(tmp_path / "trips" / f"{number}.parquet")
        part.to_csv(tmp_path / "trips" / f"{number}.csv", index=False)
    monkeypatch.chdir(tmp_path)


def tables_among(values):
    """Return the shapes of tables of several rows and columns."""
    shapes = []
    for value in values:
        if isinstance(value, list | tuple):
            shapes += tables_among(value)
        elif np.ndim(value) == 2 and min(np.shape(value)) > 1:
            shapes.append(np.shape(value))
    return shapes


@pytest.mark.parametrize("read", ["parquet", "csv"])
def test_the_features_stay_on_the_workers(client, gathered, trips, capsys, read):
    assert OTHER_FORMAT.search(READ_AND_FIT)
    code = READ_AND_FIT
    if read == "csv":
        code = OTHER_FORMAT.sub(r"\1", code)
    page = {}
    with client.as_current():
        quiet(exec, code, page)
        assert tables_among(gathered) == []
        # Means and deviations, the targets, the parameters and the predictions.
        assert N_ROWS > max(map(np.size, gathered)) > 0
        quiet(exec, ENCODE, page)
        # Each part gives a tenth of its rows.
        (sample,) = tables_among([pd.concat(find_frames(gathered))])
        assert sample == (pytest.approx(0.08 * N_ROWS, rel=0.2), 5)
    scores = [float(line) for line in capsys.readouterr().out.split()]
    assert len(scores) == 2
    assert min(scores) > 0.8


def find_frames(values):
    return [value for value in values if isinstance(value, pd.DataFrame)]


def test_an_array_of_known_size_is_trained_block_by_block(client, gathered, trips):
    page = {}
    with client.as_current():
        exec(READ, page)
        together = clone(page["reg"])
        quiet(together.fit, page["X_train"], page["y_train"])
        with dask.config.set({"skdistmlp.rows.memory-share": 1e-9}):
            quiet(exec, AS_ARRAY, page)
    assert page["reg"].plan_.rows.on_disk
    assert tables_among(gathered) == []
    # Rows that are not copied may be divided among replicas, which round differently.
    for mine, theirs in zip(page["reg"].coefs_, together.coefs_, strict=True):
        assert_allclose(mine, theirs, atol=1e-4)


def fit_all(page, reg):
    return reg.fit(page["X_train"], page["y_train"])


@pytest.mark.parametrize(
    "use",
    [
        lambda page: StandardScaler().fit(page["X_train"]),
        lambda page: fit_all(page, make_pipeline(StandardScaler(), page["reg"])),
        lambda page: np.asarray(page["X_train"]),
        lambda page: fit_all(page, page["reg"].set_params(engine="local")),
        lambda page: fit_all(page, page["reg"].set_params(engine="futures")),
        lambda page: fit_all(page, page["reg"].set_params(engine="auto")),
    ],
    ids=["scaler", "pipeline", "asarray", "local", "futures", "auto"],
)
def test_what_does_not_know_dask_fetches_the_features(client, gathered, trips, use):
    page = {}
    with client.as_current():
        exec(READ, page)
        page["reg"].set_params(max_iter=1)
        assert tables_among(gathered) == []
        quiet(use, page)
    n_rows = sum(rows for rows, _ in tables_among(gathered))
    assert n_rows > 0.7 * N_ROWS


@pytest.mark.parametrize(
    "use",
    [
        lambda page: train_test_split(page["X_train"], page["y_train"]),
        lambda page: cross_val_score(page["reg"], page["X_train"], page["y_train"]),
    ],
    ids=["split", "cross_val"],
)
def test_scikit_learn_does_not_split_data_frames_of_dask(client, trips, use):
    page = {}
    with client.as_current():
        exec(READ, page)
        with pytest.raises(AttributeError, match="object has no attribute"):
            use(page)
