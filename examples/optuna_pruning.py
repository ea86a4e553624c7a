"""Pruning trials with Optuna
==========================

Optuna suggests parameters, and gives up a trial that does worse than the others did
after as many epochs.
"""

import warnings

import optuna
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from skdistmlp import DistributedMLPClassifier

N_TRIALS = 10
MAX_EPOCHS = 15

# %%
# A callback reports the score on held-out rows after every epoch, and stops the fit.
# Early stopping holds out these rows and scores them anyway, so the parameters need not
# be fetched from workers.


class Pruning:
    """Report the validation score of each epoch, and stop a fit that falls behind.

    Parameters
    ----------
    trial : optuna.Trial
        The trial that the fit belongs to.

    Attributes
    ----------
    pruned : bool
        Whether it has stopped the fit.
    """

    def __init__(self, trial):
        self.trial = trial
        self.pruned = False

    def setup(self, estimator, context):
        """Prepare before fit; nothing to do here."""

    def on_fit_task_begin(self, estimator, context):
        """Prepare before the fit and before each epoch; nothing to do here."""

    def on_fit_task_end(self, estimator, context):
        """Report an epoch; return whether to stop."""
        if context.task_name != "epoch":
            return False
        self.trial.report(estimator.validation_scores_[-1], step=context.task_id)
        self.pruned = self.trial.should_prune()
        return self.pruned

    def teardown(self, estimator, context):
        """Clean up after fit, also if it failed; nothing to do here."""


# %%
# A trial trains one network with the parameters that Optuna suggests.

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)


def network(**parameters):
    """Return an estimator; the same seed holds out the same rows in every trial."""
    return DistributedMLPClassifier(
        (32,), early_stopping=True, max_iter=MAX_EPOCHS, random_state=0, **parameters
    )


def objective(trial):
    """Train a network; return its best validation score."""
    pruning = Pruning(trial)
    clf = network(
        learning_rate_init=trial.suggest_float("rate", 1e-4, 1e-1, log=True),
        alpha=trial.suggest_float("alpha", 1e-5, 10.0, log=True),
    )
    clf.set_callbacks(pruning).fit(X_train, y_train)
    ended = "pruned" if pruning.pruned else "complete"
    score = clf.best_validation_score_
    print(
        f"trial {trial.number}  {ended:<8} after {clf.n_iter_:>2} epochs  "
        f"score {score:.3f}"
    )
    if pruning.pruned:
        raise optuna.TrialPruned
    return score


# %%
# Search. ``MedianPruner`` gives up a trial whose score is below the median of the
# others' at the same epoch, once three trials are complete.

# Trials end at max_iter, or early: neither is worth a warning or a line in a log.
warnings.simplefilter("ignore", ConvergenceWarning)
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(
    direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2),
)
study.optimize(objective, n_trials=N_TRIALS)

# %%
# Train the best network again, and score it on unseen digits.

rate, alpha = study.best_params["rate"], study.best_params["alpha"]
best = network(learning_rate_init=rate, alpha=alpha).fit(X_train, y_train)
number = study.best_trial.number
print(f"chosen    trial {number}: rate {rate:.4f}, alpha {alpha:.5f}")
print(f"accuracy  {best.score(X_test, y_test):.3f} on unseen digits")
