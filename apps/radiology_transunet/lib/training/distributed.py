"""Several processes that make each training step together: one on each GPU, of one machine or of more.

The pictures of a step are those of one process, whatever the number of processes: every process draws the whole step
from the seed and computes its share of the pictures. What the loss needs of all of them (sums of the soft Dice, of the
cross-entropy, of batch norms) is added up where it is needed, and so are the gradients. So the step is that of one
process to rounding, and a run may go on with another number of processes. Only dropout differs: each share draws its
own, as each part of accumulated batches does.

The process of rank 0 leads: it alone reports, keeps the time and writes checkpoints. Between two steps the processes
meet in `exchange`; one that fails there tells the others why. One that fails within a step, or dies, closes its
connections, which ends the others with `ProcessLost`.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]

from lib.core.errors import InvalidSettings, LabelError, ProcessLost, TrainingFailed
from lib.inference.devices import choose_device
from lib.training import collectives
from lib.training.config import FitConfig

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long the others wait for one that lives and does not come: the slowest one's preparation or validation."""

MEETING = timedelta(minutes=5)
"""How long processes of several machines look for the leader."""


@dataclass(frozen=True, slots=True)
class _End:
    """What a process says instead of a value when it has to end."""

    rank: int
    error: LabelError | str

    def raised(self) -> LabelError:
        """What the others raise."""
        if isinstance(self.error, LabelError):
            return self.error
        return ProcessLost(f"process {self.rank} of the training ended: {self.error}")


class Group:
    """The processes of a training, seen from one of them; a process alone is a group too.

    Args:
        rank: of this process.
        size: processes in all.
        local_rank: of this process on its machine, which is the number of its GPU.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self._within = False

    @property
    def leads(self) -> bool:
        """Whether this process reports, keeps the time and writes."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of a setting; in a group each process has a GPU of its own.

        Raises:
            InvalidSettings: a CUDA device by number, or more processes than devices.
        """
        if self.size == 1 or (chosen := choose_device(name)).type == "cpu":
            return choose_device(name)
        if name not in ("auto", "cuda"):
            raise InvalidSettings(
                f"{self.size} processes choose their own GPUs: device must be auto or cuda, got {name}"
            )
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise InvalidSettings(f"each process needs a GPU of its own: there are {count}; start so many at most")
        return torch.device(chosen.type, self.local_rank)

    def require_even(self, config: FitConfig) -> None:
        """Raise InvalidSettings unless the pictures of a step can be shared evenly."""
        count = config.batch_size * config.accumulate
        if count % self.size:
            raise InvalidSettings(
                f"training.batch_size x accumulate must be shared evenly by the {self.size} processes, got "
                f"{config.batch_size} x {config.accumulate} = {count} pictures a step; start fewer processes"
            )

    def share(self, count: int) -> range:
        """Which of the pictures of a step are this process's own."""
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def total(self, part: Tensor) -> Tensor:
        """The sum over all processes of what each has of its own pictures; gradients reach these alone."""
        return part if self.size == 1 else collectives.total(part)

    def add_gradients(self, network: nn.Module) -> None:
        """Put the sum over all processes in place of each gradient."""
        if self.size > 1:
            collectives.add_gradients(list(network.parameters()))

    def synchronise(self, network: nn.Module) -> None:
        """Let batch norms see the pictures of all processes while they learn."""
        if self.size > 1:
            collectives.synchronise(network, self.rank, self.size)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around what all do together, in the middle of which nobody can be told of an end, nor after its failure."""
        self._within = True
        yield
        self._within = False

    def exchange(self, value: T) -> list[T]:
        """The values of all processes by rank; to be called by all of them, with small values.

        Raises:
            ProcessLost: one has died, or ended for a reason that is no LabelError.
            LabelError: what another one has ended with.
        """
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self.step():
            with collectives.loss_explained():
                dist.all_gather_object(found, value)
            for said in found:
                if isinstance(said, _End):
                    raise said.raised()
        return found

    def from_leader(self, make: Callable[[], T]) -> T:
        """What the leader makes, on all processes; it may be large."""
        if self.size == 1:
            return make()
        made = [make() if self.leads else None]
        self.exchange(None)  # an end is heard of here
        with self.step(), collectives.loss_explained():
            dist.broadcast_object_list(made, src=0)
        return made[0]  # type: ignore[return-value]

    def require_same(self, key: str) -> None:
        """Raise TrainingFailed unless all processes have the same cases and options, by their checksum."""
        if len(set(self.exchange(key))) > 1:
            raise TrainingFailed(
                f"all {self.size} processes must have the same cases, weights and options; they differ"
            )

    def each(self, function: Callable[[int], T], count: int, report: Callable[[float], None]) -> list[T]:
        """The function's values of the numbers below `count`, shared among the processes; all get all of them.

        Args:
            function: of a number.
            count: of numbers.
            report: called with the share done.
        """
        own = []
        for number in range(self.rank, count, self.size):
            own.append(function(number))
            report(min(1.0, (number + self.size) / count))
        found = self.exchange(own)
        return [found[number % self.size][number // self.size] for number in range(count)]

    def tell_end(self, error: BaseException) -> None:
        """Let the others end too; in the middle of a step the end of this process does that."""
        if self.size == 1 or self._within:
            return
        why = error if isinstance(error, LabelError) else type(error).__name__
        with suppress(Exception):
            self.exchange(_End(self.rank, why))


ALONE = Group()


@contextmanager
def joined(rank: int, size: int, local_rank: int = 0, store: Store | None = None) -> Iterator[Group]:
    """Meet the other processes, and part from them at the end.

    Args:
        rank: of this process.
        size: processes in all.
        local_rank: of this process on its machine.
        store: where they meet; None = where the environment says, as torchrun sets it.

    Raises:
        ProcessLost: the others do not come, or one ends before its time.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with collectives.loss_explained():
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    group = Group(rank, size, local_rank)
    try:
        yield group
    except BaseException as error:
        group.tell_end(error)
        raise
    finally:
        with suppress(Exception):  # of one that others have left
            dist.destroy_process_group()


def file_store(path: Path, size: int) -> Store:
    """Where processes of one machine meet: a file that does not exist yet."""
    return FileStore(str(path), size)


def tcp_store(host: str, port: int, size: int, leads: bool) -> TCPStore:
    """Where processes of several machines meet; the leader's has `port`, 0 = a free one.

    Raises:
        ProcessLost: the leader cannot be reached.
    """
    with collectives.loss_explained():
        return TCPStore(host, port, size, leads, timeout=MEETING, wait_for_workers=False)


@contextmanager
def joined_by_torchrun() -> Iterator[Group]:
    """The group of the torchrun that started this process; without one it is alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if sys.platform == "linux" and os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody else shall reach processes of one machine
    with joined(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0"))) as group:
        yield group
