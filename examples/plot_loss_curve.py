"""The loss and the validation scores of a fit
===========================================

``LossCurveDisplay`` draws the loss of each epoch and, where training stops early, the
scores of the rows held out, on an axis of their own.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from skdistmlp import DistributedMLPClassifier
from skdistmlp.plotting import LossCurveDisplay

X, y = load_digits(return_X_y=True)
clf = DistributedMLPClassifier((64,), early_stopping=True, random_state=0)
clf.fit(X / 16, y)
LossCurveDisplay.from_estimator(clf)
plt.show()

# %%
# Several fits may share the axes: give each a name. The axes, the figure and the line
# are matplotlib's own: ``ax_``, ``figure_`` and ``line_``.

_, ax = plt.subplots(layout="constrained")
for rate in (0.001, 0.003, 0.01):
    clf = DistributedMLPClassifier(
        (64,), learning_rate_init=rate, tol=2e-3, random_state=0
    )
    clf.fit(X / 16, y)
    LossCurveDisplay.from_estimator(clf, ax=ax, name=f"rate {rate}")
ax.set_yscale("log")
plt.show()
