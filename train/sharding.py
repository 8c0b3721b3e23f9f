"""Weights, averages and optimiser moments split over the processes of a run (FSDP).

Every process keeps one slice of each tensor; a block's weights are gathered when it computes and
dropped after it. What leaves the run, checkpoints and exported weights, is whole, so that a run may
go on with any number of processes, sharded or not.

Reference: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel",
VLDB 2023.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

_BLOCKS = ("enc_blocks", "dec_blocks", "dec_blocks2")  # lists of transformer blocks, by name


class Sharding:
    """Splits modules over all processes, and puts their tensors together again.

    The processes must start with equal weights: recipes are seeded, checkpoints are whole.

    Args:
        device: where this process computes.
        world: number of processes.
    """

    def __init__(self, device: torch.device, world: int) -> None:
        self.mesh = init_device_mesh(device.type, (world,))
        self.world = world

    def split(self, module: nn.Module) -> None:
        """Shard a module in place, block by block; single numbers stay whole in every process."""
        for parameter in module.parameters():  # slices need rows: no channels-last kernels
            parameter.data = parameter.data.contiguous()
        numbers = {p for p in module.parameters() if p.ndim == 0}
        for name, child in module.named_modules():
            if name.split(".")[-1] in _BLOCKS and isinstance(child, nn.ModuleList):
                for block in child:
                    fully_shard(block, mesh=self.mesh)
        fully_shard(module, mesh=self.mesh, ignored_params=numbers)

    def average_gradients(self, module: nn.Module, last: bool) -> None:
        """Say before a batch whether its gradients are averaged over the processes."""
        cast(FSDPModule, module).set_requires_gradient_sync(last)

    def average_numbers(self, module: nn.Module) -> None:
        """Average the gradients of the single numbers, after the last batch of a step."""
        for parameter in module.parameters():
            if parameter.ndim == 0 and parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self.world


def whole(value: Any) -> Any:
    """Put the sharded tensors of nested containers together, on the CPU.

    All processes must call it at the same time. Tensors that are not sharded stay as they are.
    """
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value


def whole_norm(gradients: list[Tensor]) -> Tensor:
    """The 2-norm of gradients, sharded or not, over all processes."""
    norm = nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def like(value: Any, model: Any) -> Any:
    """Split a whole tensor as `model` is split; without a sharded `model` it stays as it is."""
    if isinstance(value, Tensor) and isinstance(model, DTensor) and value.shape == model.shape:
        return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)
    return value


def load_whole(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load whole tensors into a module, sharded or not.

    Raises:
        RuntimeError: names or shapes do not fit.
    """
    own = module.state_dict()
    module.load_state_dict({name: like(value, own.get(name)) for name, value in state.items()})


def split_moments(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Split the moments of a whole optimiser state as its parameters are split."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {name: like(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return state | {"state": moments}


def plain_copy(model: nn.Module) -> nn.Module:
    """Copy a model to the CPU before it is sharded, to validate and export whole weights with."""
    return copy.deepcopy(model).cpu()
