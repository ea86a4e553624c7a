"""The same training with torch, as its users run it; a separate program.

``python -m benchmarks.torch_mlp`` reads a workload as JSON from stdin and prints the
milliseconds per step as JSON: in one process, data-parallel and tensor-parallel.
"""

import json
import socket
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.multiprocessing import spawn

N_PROCESSES = 2
LEARNING_RATE = 1e-3


def main() -> None:
    """Time the workload on stdin in each way."""
    workload = json.load(sys.stdin)
    torch.set_num_threads(workload["threads"])
    steps_ms = {
        "one process": _step_ms(_model(workload["layer_units"]), workload, 0, 1)
    }
    for name in ("data-parallel", "tensor-parallel"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        spawn(_run_process, (name, workload, port), nprocs=N_PROCESSES)
        steps_ms[name] = json.loads(store.get("result"))
    print(json.dumps(steps_ms))


def _run_process(rank: int, name: str, workload: dict[str, Any], port: int) -> None:
    """Run one of two single-threaded processes that train together."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=N_PROCESSES)
    model: nn.Module = _model(workload["layer_units"])
    if name == "data-parallel":
        model = nn.parallel.DistributedDataParallel(model)
        milliseconds = _step_ms(model, workload, rank, N_PROCESSES)
    else:
        mesh = init_device_mesh("cpu", (N_PROCESSES,))
        model = parallelize_module(model, mesh, _parallel_styles(model))
        milliseconds = _step_ms(model, workload, 0, 1)
    if rank == 0:
        store.set("result", json.dumps(milliseconds))
    # A process that leaves early would break the other's last collective.
    dist.barrier()
    dist.destroy_process_group()


def _model(layer_units: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(layer_units):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _parallel_styles(model: nn.Module) -> dict[str, Any]:
    """Split layers in pairs, by outputs and then by inputs, as torch recommends.

    A last layer without a partner stays whole.
    """
    linear = [
        name for name, layer in model.named_children() if isinstance(layer, nn.Linear)
    ]
    return {
        name: style
        for pair in zip(linear[::2], linear[1::2], strict=False)
        for name, style in zip(
            pair, (ColwiseParallel(), RowwiseParallel()), strict=True
        )
    }


def _parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Separate split parameters from others: a fused update takes one kind only."""
    split = [p for p in model.parameters() if isinstance(p, DTensor)]
    whole = [p for p in model.parameters() if not isinstance(p, DTensor)]
    return [{"params": group} for group in (split, whole) if group]


def _step_ms(
    model: nn.Module, workload: dict[str, Any], rank: int, n_replicas: int
) -> float:
    """Train, and return the milliseconds per step after the first epoch."""
    n_steps, batch_size = workload["n_steps"], workload["batch_size"]
    n_own_rows = batch_size // n_replicas
    generator = torch.Generator().manual_seed(0)
    n_rows = n_steps * batch_size
    X = torch.randn(n_rows, workload["layer_units"][0], generator=generator)
    y = torch.randint(workload["layer_units"][-1], (n_rows,), generator=generator)
    optimizer = torch.optim.Adam(_parameter_groups(model), LEARNING_RATE, fused=True)
    loss_function = nn.CrossEntropyLoss()

    def epoch() -> None:
        order = torch.randperm(n_rows, generator=generator)
        for start in range(rank * n_own_rows, n_rows, batch_size):
            row_indices = order[start : start + n_own_rows]
            _step(model, optimizer, loss_function, X[row_indices], y[row_indices])

    epoch()
    start_s = time.perf_counter()
    for _ in range(workload["n_epochs"]):
        epoch()
    elapsed_s = time.perf_counter() - start_s
    return 1e3 * elapsed_s / (workload["n_epochs"] * n_steps)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    X: Tensor,
    y: Tensor,
) -> None:
    optimizer.zero_grad()
    loss_function(model(X), y).backward()
    optimizer.step()


if __name__ == "__main__":
    main()
