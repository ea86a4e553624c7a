"""The same training with torch, as its users run it; a separate program.

``python -m benchmarks.torch_mlp`` reads a workload as JSON from stdin and prints the
milliseconds per step as JSON: in one process, data-parallel and tensor-parallel. With a
rank, it is one process of one of these modes, and finds the others at a store.
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

MODES = ("one process", "data-parallel", "tensor-parallel")
N_PROCESSES = 2
LEARNING_RATE = 1e-3


def main() -> None:
    """Time the workload on stdin in each way."""
    workload = json.load(sys.stdin)
    torch.set_num_threads(workload["threads"])
    if "rank" in workload:
        rank, (host, port) = workload["rank"], workload["store"]
        n_processes, mode = workload["n_processes"], workload["mode"]
        store = dist.TCPStore(host, port, is_master=rank == 0, wait_for_workers=False)
        step_ms = _run_process(rank, mode, workload, store, n_processes)
        print(json.dumps({mode: step_ms}))
        return
    steps_ms = {"one process": _step_ms(_model(workload["layer_units"]), workload)}
    for mode in MODES[1:]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        spawn(_run_spawned, (mode, workload, port), nprocs=N_PROCESSES)
        steps_ms[mode] = json.loads(store.get("result"))
    print(json.dumps(steps_ms))


def _run_spawned(rank: int, mode: str, workload: dict[str, Any], port: int) -> None:
    """Run one of the processes on this machine."""
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    step_ms = _run_process(rank, mode, workload, store, N_PROCESSES)
    if rank == 0:
        store.set("result", json.dumps(step_ms))


def _run_process(
    rank: int, mode: str, workload: dict[str, Any], store: dist.Store, n_processes: int
) -> float:
    """Run one of several single-threaded processes that train together."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n_processes)
    model: nn.Module = _model(workload["layer_units"])
    if mode == "data-parallel":
        model = nn.parallel.DistributedDataParallel(model)
        step_ms = _step_ms(model, workload, rank, n_processes)
    elif mode == "tensor-parallel":
        mesh = init_device_mesh("cpu", (n_processes,))
        model = parallelize_module(model, mesh, _parallel_styles(model))
        step_ms = _step_ms(model, workload)
    else:
        step_ms = _step_ms(model, workload)
    # A process that leaves early would break the other's last collective.
    dist.barrier()
    dist.destroy_process_group()
    return step_ms


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
    model: nn.Module, workload: dict[str, Any], rank: int = 0, n_replicas: int = 1
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

    start_s = time.perf_counter()
    epoch()
    n_epochs = _affordable_epochs(workload, time.perf_counter() - start_s)
    start_s = time.perf_counter()
    for _ in range(n_epochs):
        epoch()
    elapsed_s = time.perf_counter() - start_s
    return 1e3 * elapsed_s / (n_epochs * n_steps)


def _affordable_epochs(workload: dict[str, Any], epoch_s: float) -> int:
    """Return how many epochs fit into the time, the same in all processes."""
    n_epochs: int = workload["n_epochs"]
    if "max_s" in workload:
        n_epochs = min(n_epochs, max(1, int(workload["max_s"] / epoch_s)))
    if dist.is_initialized():
        agreed = torch.tensor(n_epochs)
        dist.broadcast(agreed, 0)
        n_epochs = int(agreed)
    return n_epochs


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
