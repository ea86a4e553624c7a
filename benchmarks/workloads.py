"""Workloads with other solvers, dtypes and sparse features."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_array

from skdistmlp.crossover.workloads import N_CLASSES, Workload


@dataclass(frozen=True)
class SolverWorkload(Workload):
    """A workload for a solver, a dtype and dense or sparse features.

    Attributes
    ----------
    solver : str
        Name of the solver; "lbfgs" takes all rows of an epoch at once.
    dtype : str
        Name of the dtype of the features.
    density : float or None
        Fraction of the features that are stored; None for dense ones.
    """

    solver: str = "adam"
    dtype: Literal["float32", "float64"] = "float32"
    density: float | None = None

    @property
    def variant(self) -> str:
        """Solver, dtype and density."""
        sparse = "" if self.density is None else f", {self.density:.0%} of X stored"
        return f"{self.solver}, {self.dtype}{sparse}"

    def data(self) -> tuple[Any, np.ndarray]:
        """Return random features, of this dtype and density, and classes."""
        if self.density is None:
            X, y = super().data()
            return X.astype(self.dtype, copy=False), y
        random = np.random.default_rng(0)
        n_rows = self.n_steps * self.batch_size
        # Not `scipy.sparse.random_array`, whose `rng` came with SciPy 1.15.
        n_places = n_rows * self.n_features
        stored = random.permutation(n_places)[: round(self.density * n_places)]
        values = random.random(len(stored)).astype(self.dtype)
        places = np.divmod(stored, self.n_features)
        X = csr_array((values, places), (n_rows, self.n_features))
        return X, random.integers(0, N_CLASSES, n_rows)

    def parameters(self, n_epochs: int | None = None) -> dict[str, Any]:
        """Return parameters for an estimator, scikit-learn's or ours."""
        return super().parameters(n_epochs) | {"solver": self.solver}
