"""Early stopping
==============

Stops training once the loss of held-out rows no longer improves, and plots the curves.
"""

import matplotlib.pyplot as plt
from distributed import Client, SubprocessCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skdistmlp import DistributedMLPClassifier
from skdistmlp.plotting import LossCurveDisplay

# %%
# Divide the digits into rows for training, for validation and for the test. Without
# rows of your own, ``early_stopping=True`` holds out 10% of those for training, as
# in scikit-learn.

X, y = load_digits(return_X_y=True)
X_rest, X_test, y_rest, y_test = train_test_split(X / 16, y, random_state=0)
X_train, X_val, y_train, y_val = train_test_split(X_rest, y_rest, random_state=0)

# %%
# Train on two workers until the loss of the rows for validation has not improved for
# ten epochs. By default, it is the accuracy that counts: ``scoring="loss"`` notices
# earlier that probabilities get worse. The network is the one of the best epoch.

cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
client.wait_for_workers(2)
clf = DistributedMLPClassifier(
    hidden_layer_sizes=(128, 128),
    learning_rate_init=0.003,
    early_stopping=True,
    scoring="loss",
    n_iter_no_change=10,
    engine="peers",
    random_state=0,
)
clf.fit(X_train, y_train, X_val=X_val, y_val=y_val)
print(f"stopped    after {clf.n_iter_} epochs")
print(f"best       epoch {clf.best_iter_}, loss {-clf.best_validation_score_:.3f}")
print(f"accuracy   {clf.score(X_test, y_test):.3f} on unseen digits")

# %%
# The loss of the rows for training goes on falling, and that of the others does not.

display = LossCurveDisplay(
    loss_curve=clf.loss_curve_, validation_loss_curve=clf.validation_loss_curve_
).plot()
display.ax_.axvline(clf.best_iter_, color="grey", linewidth=1)
display.ax_.set_yscale("log")
plt.show()

# %%
# Stop the workers.

client.shutdown()
