"""Loss and validation scores of a fit
===================================

``LossCurveDisplay`` plots the loss of each epoch and, with early stopping, the
validation scores on a second axis.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from skdistmlp import DistributedMLPClassifier
from skdistmlp.plotting import LossCurveDisplay

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
