"""Networks to train in the lab, and for how long."""

import math
from dataclasses import replace

from skdistmlp.crossover.workloads import Workload, parse_layers
from skdistmlp.parallel.split import count_parameters

DEFAULT = [
    "64-256-256",
    "64-256-256@2000",
    "784-256",
    "784-4096",
    "784-1024-1024",
    "784-2048-2048",
    "784-1024-1024-1024",
    "784-2048-2048@1000",
    "784-1024-1024@8000",
]
"""Networks that are measured by default, as `parse_network` reads them."""

FORECAST = [
    f"{layers}@{batch_size}"
    for layers in [
        "64-100",
        "64-256-256",
        "784-256",
        "784-1024-1024",
        "784-2048-2048",
        "784-4096",
    ]
    for batch_size in (200, 2000)
]
"""Networks that are measured by default where they are forecast."""

FITTED = [name for number, name in enumerate(FORECAST) if number % 4 in (0, 3)]
"""Those of them, on every link, to which constants of the model may be fitted: of each
two with the same layers one, with either batch size as often. All other networks are
kept out, so that their errors say how well the model does on what it has not seen."""

BATCH_SIZE = 200
"""Rows per mini-batch of a network that does not say."""

ROWS_BYTES = 16e6
"""Size of the rows: each fit sends them, in a second and a half at 100 Mbit/s."""

MAX_STEPS = 100
"""Mini-batches per epoch, so that an epoch of the smallest networks is short too."""

MAX_EPOCH_S = 4.0
"""Seconds that an epoch is expected to take at most, where that is forecast."""

TIMED_S = 1.0
"""Seconds that the epochs which are timed are expected to take at least, where that is
forecast: what a fit takes besides its steps varies by 0.05 s and more, and with half as
long, two plans that compute the same seemed to differ by up to 18%."""

TRAINED_FLOP = 2e10
"""Work of the epochs that are timed: half a second at 40 GFLOP/s."""


def parse_network(text: str) -> Workload:
    """Read a network such as "784-1024-1024@8000": layers, and rows per mini-batch.

    Raises
    ------
    ValueError
        If there is no hidden layer, or something is no positive number.
    """
    layers, at, batch = text.partition("@")
    try:
        n_features, hidden = parse_layers(layers)
        batch_size = int(batch) if at else BATCH_SIZE
        if batch_size < 1:
            raise ValueError(f"{batch_size} rows")
    except ValueError:
        raise ValueError(
            f"the network is {text!r}; expected the number of features and the widths "
            f"of hidden layers, and maybe a batch size, such as 784-1024-1024@8000"
        ) from None
    n_steps = round(ROWS_BYTES / (4 * n_features * batch_size))
    n_steps = min(max(2, n_steps), MAX_STEPS)
    workload = Workload(n_features, hidden, n_steps, 1, batch_size)
    step_flop = 6 * batch_size * count_parameters(workload.layer_units)
    n_epochs = min(max(1, math.ceil(TRAINED_FLOP / (n_steps * step_flop))), 4)
    return Workload(n_features, hidden, n_steps, n_epochs, batch_size)


def half_of(workload: Workload) -> str:
    """Return "fitted" if the model may be fitted to a network, or else "kept out"."""
    units = workload.layer_units[:-1]
    name = f"{'-'.join(map(str, units))}@{workload.batch_size}"
    return "fitted" if name in FITTED else "kept out"


def sized_for(workload: Workload, step_s: float) -> Workload:
    """Return a workload that takes neither too long nor too short a time to measure.

    With fewer mini-batches or more epochs.

    Parameters
    ----------
    workload : Workload
        What to train.
    step_s : float
        Seconds that each of its mini-batches is expected to take.
    """
    n_steps = min(workload.n_steps, max(2, int(MAX_EPOCH_S / step_s)))
    n_epochs = max(workload.n_epochs, math.ceil(TIMED_S / (n_steps * step_s)))
    return replace(workload, n_steps=n_steps, n_epochs=n_epochs)
