"""The processes that share a training: one each for a GPU, or for a core. Started by torchrun; else there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wsi_vmamba.device import is_gpu
from wsi_vmamba.errors import TrainingError, UsageError

#: What torchrun tells each process.
_TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process and how many there are. Sums go over all of them; with one, nothing is sent."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over the ranks; they travel as one."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of all ranks, in their order, (world · n, ...); gradients come back to this rank's rows.

        Every rank must then compute the same loss of all rows: its gradient, times ``world``, is what the mean over
        the ranks needs.
        """
        if self.world == 1:
            return tensor
        rows: Tensor = _Gather.apply(tensor, self.rank, self.world)  # type: ignore[no-untyped-call]
        return rows

    def same_start(self, modules: Sequence[nn.Module]) -> None:
        """Give every rank the weights of the first."""
        if self.world > 1:
            with torch.no_grad():
                for module in modules:
                    for tensor in (*module.parameters(), *module.buffers()):
                        dist.broadcast(tensor, src=0)

    def require_agreement(self, value: Any, *, what: str) -> None:
        """Refuse to go on where the ranks differ in something they must share.

        Raises:
            TrainingError: naming it, and what each has.
        """
        if self.world == 1:
            return
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        odd = [rank for rank in range(self.world) if found[rank] != found[0]]
        if odd:
            raise TrainingError(
                f"the processes of this training differ in {what}: rank 0 has {found[0]!r}, rank {odd[0]} has "
                f"{found[odd[0]]!r}; give all of them the same files and options, in a folder that all see"
            )

    def wait(self) -> None:
        """Go on when every rank is here."""
        if self.world > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rank: int, world: int) -> Tensor:
        ctx.rank, ctx.world, ctx.rows = rank, world, len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(world)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        own = gradients[0].narrow(0, ctx.rank * ctx.rows, ctx.rows)
        return own * ctx.world, None, None


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """Join the processes that torchrun started; yields who this is, and its own device.

    Args:
        device: as resolved; with several ranks "cuda" becomes one GPU for each.

    Raises:
        UsageError: half of what torchrun tells is there, or all ranks are given one GPU.
    """
    told = [name for name in _TOLD if name in os.environ]
    if "RANK" not in told or "WORLD_SIZE" not in told:
        yield Ranks(), device
        return
    if len(told) < len(_TOLD):
        raise UsageError(
            f"RANK and WORLD_SIZE are set, but {', '.join(set(_TOLD) - set(told))} not; start several processes with "
            "torchrun --nproc-per-node N -m wsi_vmamba pretrain ..., or unset them"
        )
    world = int(os.environ["WORLD_SIZE"])
    if is_gpu(device) and ":" in device and world > 1:
        raise UsageError(f"{world} processes cannot share {device}; leave --device out, or give cuda")
    if is_gpu(device) and ":" not in device:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if is_gpu(device) else "gloo")
    try:
        yield Ranks(rank=dist.get_rank(), world=dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
