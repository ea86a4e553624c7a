"""Loss and validation scores of a fit
===================================

``LossCurveDisplay`` plots the loss of each epoch and, with rows for validation, their
loss and their scores.
"""

import warnings

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.plotting import LossCurveDisplay

# %%
# Early stopping holds out 10% of the rows. Their score has its own axis, on the right.

X, y = load_digits(return_X_y=True)
clf = DistributedMLPClassifier(
    hidden_layer_sizes=(64,), early_stopping=True, random_state=0
)
clf.fit(X / 16, y)
LossCurveDisplay.from_estimator(clf)
plt.show()

# %%
# Several fits can share the same axes; give each a name. The attributes ``ax_``,
# ``figure_`` and ``line_`` are matplotlib objects that you can change.

_, ax = plt.subplots(layout="constrained")
for rate in (0.001, 0.003, 0.01):
    clf = DistributedMLPClassifier(
        (64,), learning_rate_init=rate, tol=2e-3, random_state=0
    )
    clf.fit(X / 16, y)
    LossCurveDisplay.from_estimator(clf, ax=ax, name=f"rate {rate}")
ax.set_yscale("log")
plt.show()

# %%
# Validation curves
# -----------------
#
# Rows that you pass as ``X_val`` and ``y_val`` are scored after every epoch. Without
# early stopping they do not change the training, and show where it should have ended:
# these 442 patients with diabetes are too few for 100 neurons and no regularisation.

X, y = load_diabetes(return_X_y=True)
X_train, X_val, y_train, y_val = train_test_split(X, y, random_state=0)
scaler = StandardScaler().fit(X_train)
mean, std = y_train.mean(), y_train.std()
warnings.simplefilter("ignore", ConvergenceWarning)  # it goes on for too long
reg = DistributedMLPRegressor(hidden_layer_sizes=(100,), max_iter=300, random_state=0)
reg.fit(
    scaler.transform(X_train),
    (y_train - mean) / std,
    X_val=scaler.transform(X_val),
    y_val=(y_val - mean) / std,
)
LossCurveDisplay.from_estimator(reg)
plt.show()
