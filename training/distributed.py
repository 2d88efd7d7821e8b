"""Ranks: the processes of one training, started by torchrun, or the single one that there is."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from utils.errors import UserError

# Preparing an archive takes hours, in which the others wait; a process that fails ends its
# connections, or is seen by torchrun, long before.
TIMEOUT = timedelta(days=7)


class RankError(UserError):
    """Another process of the training failed, or there are more of them than GPUs."""


@dataclass(frozen=True)
class Ranks:
    """This process among all of them. With a `size` of 1 nothing is ever sent.

    Every process takes the same steps at the same time: each sums up the gradients of its own
    part of a batch, and what is decided from sums comes out the same everywhere.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its machine

    @property
    def is_first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """A context that the first enters alone, then the first of each other machine, then the
        rest: what it leaves on a disk is found by the others, be that disk shared or not."""
        turn = 0 if self.is_first else 1 if self.local_rank == 0 else 2
        for now in range(3):
            if now == turn:
                yield
            self.sum([0.0])

    def sum(self, numbers: Iterable[float]) -> list[float]:
        """The numbers (as many everywhere) added up over all processes, in float64."""
        total = torch.tensor(list(numbers), dtype=torch.float64)
        self._all_reduce(total)
        return total.tolist()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gives each parameter that learns the sum of its gradients; none counts as zero.

        All of them in one message: they are 14 MB at most, and its parts would wait for the last.
        """
        if self.size == 1:
            return
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        total = torch.cat([parameter.grad.reshape(-1) for parameter in learning])
        self._all_reduce(total)
        parts = total.split([parameter.numel() for parameter in learning])
        for parameter, part in zip(learning, parts, strict=True):
            parameter.grad.copy_(part.view(parameter.shape))

    def leave(self) -> None:
        """Ends the connection: from here on each process is on its own."""
        if self.size > 1:
            dist.destroy_process_group()

    def _all_reduce(self, tensor: torch.Tensor) -> None:
        if self.size == 1:
            return
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:  # gloo's way to say that a connection was closed
            raise RankError(
                "another process of this training ended: what it said stands above"
            ) from error


def join_ranks() -> Ranks:
    """This process among those that torchrun started, connected; alone where it did not.

    All but the first fall silent, on stdout. Raises RankError where a process has no GPU.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return Ranks()
    ranks = Ranks(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    if not ranks.is_first:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for as long as the process lives
    backend = "gloo"
    if torch.cuda.is_available():
        if ranks.local_rank >= (found := torch.cuda.device_count()):
            raise RankError(
                f"process {ranks.local_rank + 1} of this machine has no GPU, there are {found}: "
                f"pass --nproc-per-node {found} to torchrun"
            )
        torch.cuda.set_device(ranks.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)
    return ranks
