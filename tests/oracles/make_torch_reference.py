"""Train the cases with torch and save what comes out.

``python -m tests.oracles.make_torch_reference`` in the root of the repository writes
``torch_reference.npz``. It needs NumPy and torch alone. The committed file was made
with torch 2.13.0 on a CPU; it holds the version too, as ``torch_version``.

Everything that torch has is torch's own: modules, losses, optimisers, schedulers,
clipping and the average. `EPSILON_BEFORE_CORRECTION` is the one thing that is
translated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.oracles.cases import (
    CASES,
    DEFAULTS,
    N_STEPS,
    Case,
    count_outputs,
    make_data,
    make_initial,
    views,
)

PATH = Path(__file__).with_name("torch_reference.npz")

EPSILON_BEFORE_CORRECTION = ("adam", "adamw")
"""Solvers whose epsilon is added before the bias correction of the second moment, as
scikit-learn does: the "epsilon hat" in section 2 of Kingma and Ba (2014). torch adds it
after, so that in step t its epsilon must be ``epsilon / sqrt(1 - beta_2**t)``."""


def train(case: Case, data: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the parameters after training and the loss before each step."""
    with torch_in_double():
        return _train(case, data)


@contextmanager
def torch_in_double() -> Iterator[None]:
    """Compute in float64, on one thread.

    NAdam keeps the product of its coefficients in torch's default dtype, whatever the
    parameters have: with float32 it would be wrong in the eighth digit. And several
    threads take ten times as long as one for networks of this size.
    """
    import torch

    before = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_default_dtype(before[0])
        torch.set_num_threads(before[1])


def _train(case: Case, data: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    import torch

    params = {**DEFAULTS, **case.params}
    k = count_outputs(case, data[case.target])
    coefs, intercepts = (
        [torch.tensor(array) for array in part] for part in views(make_initial(k), k)
    )
    names = params["activation"]
    names = (names, names) if isinstance(names, str) else names
    layers: list[Any] = []
    for layer, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
        linear = torch.nn.Linear(*coef.shape, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(coef.T)
            linear.bias.copy_(intercept)
        layers.append(linear)
        if layer < len(names):
            layers.append(_activation(names[layer]))
    model = torch.nn.Sequential(*layers)
    linears = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    weights = [linear.weight for linear in linears]
    biases = [linear.bias for linear in linears]

    optimizer = _optimizer(params, weights, biases)
    scheduler = _scheduler(params, optimizer)
    average = None
    if params["ema_decay"] is not None:
        average = torch.optim.swa_utils.AveragedModel(
            model,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(
                params["ema_decay"]
            ),
        )
    X, y = torch.tensor(data["X"]), torch.tensor(data[case.target])
    weight = torch.ones(len(X), dtype=torch.float64)
    if case.weighted:
        weight = torch.tensor(data["sample_weight"])
    losses, n_clipped = [], 0
    for step in range(1, N_STEPS + 1):
        optimizer.zero_grad()
        loss_by_row = _loss_by_row(case, params, model(X), y)
        penalty = sum((w**2).sum() for w in weights)
        loss = (loss_by_row * weight).sum() + params["alpha"] / 2 * penalty
        loss = loss / weight.sum()
        loss.backward()
        losses.append(float(loss.detach()))
        if params["max_grad_norm"] is not None:
            norm = torch.nn.utils.clip_grad_norm_(
                model.parameters(), params["max_grad_norm"]
            )
            n_clipped += float(norm) > params["max_grad_norm"]
        if params["solver"] in EPSILON_BEFORE_CORRECTION:
            for group in optimizer.param_groups:
                group["eps"] = params["epsilon"] / (1 - params["beta_2"] ** step) ** 0.5
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        if step < N_STEPS:
            scheduler.step()
    _check_clipping(case, n_clipped)
    trained = model if average is None else average.module
    linears = [layer for layer in trained if isinstance(layer, torch.nn.Linear)]
    arrays = [linear.weight.detach().numpy().T for linear in linears]
    arrays += [linear.bias.detach().numpy() for linear in linears]
    return np.concatenate([array.ravel() for array in arrays]), np.array(losses)


def _activation(name: str) -> Any:
    from torch import nn

    return {
        "identity": nn.Identity,
        "logistic": nn.Sigmoid,
        "tanh": nn.Tanh,
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "selu": nn.SELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "mish": nn.Mish,
        "softplus": nn.Softplus,
    }[name]()


def _optimizer(params: dict[str, Any], weights: list[Any], biases: list[Any]) -> Any:
    from torch import optim

    rate = params["learning_rate_init"]
    betas = params["beta_1"], params["beta_2"]
    everything = [*weights, *biases]
    match params["solver"]:
        case "sgd":
            momentum = params["momentum"]
            nesterov = params["nesterovs_momentum"] and momentum > 0
            return optim.SGD(everything, lr=rate, momentum=momentum, nesterov=nesterov)
        case "adam":
            return optim.Adam(everything, lr=rate, betas=betas)
        case "adamw":
            groups = [
                {"params": weights, "weight_decay": params["weight_decay"]},
                {"params": biases, "weight_decay": 0.0},
            ]
            return optim.AdamW(groups, lr=rate, betas=betas)
        case "rmsprop":
            return optim.RMSprop(
                everything, lr=rate, alpha=params["rho"], eps=params["epsilon"]
            )
        case "nadam":
            return optim.NAdam(everything, lr=rate, betas=betas, eps=params["epsilon"])
    raise ValueError(f"unknown solver {params['solver']!r}")


def _scheduler(params: dict[str, Any], optimizer: Any) -> Any:
    from torch.optim import lr_scheduler

    schedule, rate = params["learning_rate"], params["learning_rate_init"]
    if params["warmup_steps"] and schedule == "one_cycle":
        # OneCycleLR sets the rate instead of multiplying it: chained it would forget
        # the warm-up. A copy of the optimiser tells its rates.
        rates = _rates({**params, "warmup_steps": 0}, optimizer)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = rate
        return lr_scheduler.LambdaLR(
            optimizer,
            lambda t: rates[t] / rate * min(1, (t + 1) / params["warmup_steps"]),
        )
    if callable(schedule):
        main = lr_scheduler.LambdaLR(optimizer, lambda t: schedule(t / N_STEPS))
    elif schedule == "cosine":
        main = lr_scheduler.CosineAnnealingLR(optimizer, N_STEPS)
    elif schedule == "one_cycle":
        main = lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=N_STEPS, cycle_momentum=False
        )
    else:
        main = lr_scheduler.ConstantLR(optimizer, factor=1)
    if not params["warmup_steps"]:
        return main
    n_warm = params["warmup_steps"]
    warm_up = lr_scheduler.LinearLR(
        optimizer, start_factor=1 / n_warm, total_iters=n_warm - 1
    )
    return lr_scheduler.ChainedScheduler([main, warm_up])


def _rates(params: dict[str, Any], like: Any) -> list[float]:
    """Return the learning rate of each step of an optimiser like the one given."""
    import torch

    probe = _optimizer(params, [torch.nn.Parameter(torch.zeros(1))], [])
    scheduler = _scheduler(params, probe)
    rates = []
    for step in range(N_STEPS):
        rates.append(float(probe.param_groups[0]["lr"]))
        probe.step()
        if step < N_STEPS - 1:
            scheduler.step()
    return rates


def _loss_by_row(case: Case, params: dict[str, Any], logits: Any, y: Any) -> Any:
    """Return the loss of every row, summed over the outputs."""
    import torch
    from torch.nn import functional

    smoothing = params["label_smoothing"]
    if case.target == "classes":
        return functional.cross_entropy(
            logits, y, label_smoothing=smoothing, reduction="none"
        )
    y = y.to(torch.float64).reshape(logits.shape)
    if case.classifies:
        y = y * (1 - smoothing) + smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(
            logits, y, reduction="none"
        )
        return losses.sum(dim=1)
    match params["loss"]:
        case "squared_error":
            losses = functional.mse_loss(logits, y, reduction="none") / 2
        case "absolute_error":
            losses = functional.l1_loss(logits, y, reduction="none")
        case "huber":
            losses = functional.huber_loss(
                logits, y, delta=params["huber_delta"], reduction="none"
            )
        case "poisson":
            losses = functional.poisson_nll_loss(
                logits, y, log_input=True, full=False, reduction="none"
            )
            # scikit-learn's is half the deviance, zero where the prediction is right.
            losses = losses + torch.xlogy(y, y) - y
    return losses.sum(dim=1)


def _check_clipping(case: Case, n_clipped: int) -> None:
    expected = {"never": n_clipped == 0, "always": n_clipped == N_STEPS}
    if not expected.get(case.clipped, 0 < n_clipped < N_STEPS):
        raise AssertionError(f"{n_clipped} of {N_STEPS} steps of {case} were clipped")


def main() -> None:
    """Write the file."""
    import torch

    data = make_data()
    arrays = {f"data/{name}": array for name, array in data.items()}
    arrays |= {f"initial/{k}": make_initial(k) for k in (1, 2, 3)}
    for name, case in CASES.items():
        parameters, losses = train(case, data)
        arrays[f"parameters/{name}"] = parameters
        arrays[f"losses/{name}"] = losses
    np.savez_compressed(PATH, torch_version=torch.__version__, **arrays)
    size = PATH.stat().st_size
    print(f"{len(CASES)} cases, torch {torch.__version__}, {size} bytes")  # noqa: T201


if __name__ == "__main__":
    main()
