"""Several processes that make each training step together: one on each GPU, of one machine or of more.

The pictures of a step are those of one process, whatever the number of processes: every process draws the whole step
from the seed and computes its share of the pictures. What the loss needs of all of them (sums of the soft Dice, of the
cross-entropy, of batch norms) is added up where it is needed, and so are the gradients. So the step is that of one
process to rounding, and a run may go on with another number of processes. Only dropout differs: each share draws its
own, as each part of accumulated batches does.

The process of rank 0 leads: it alone reports, keeps the time and writes checkpoints. Between two steps the processes
meet in `exchange`; one that fails there tells the others why. One that fails within a step leaves its reason where the
group met, then closes its connections: the others, which wait for it somewhere in that step, hear of the closed
connection, look for the reason and fail with it too. So all of them know of a lack of memory, wherever it was, and may
`meet_again` to go on from the last checkpoint. One that dies leaves no reason and ends the others with `ProcessLost`.
NCCL closes no connection that others hear of: on graphics cards a lack of memory ends the training, and a process
that fails there does not part, which would wait for the others, but ends.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from lib.core.errors import InvalidSettings, ProcessLost, TrainingFailed
from lib.inference.devices import choose_device
from lib.training import collectives
from lib.training.config import FitConfig
from lib.training.meeting import End, Place, store_of_environment

T = TypeVar("T")


class Group:
    """The processes of a training, seen from one of them; a process alone is a group too.

    Args:
        rank: of this process.
        size: processes in all.
        local_rank: of this process on its machine, which is the number of its GPU.
        store: where they meet; a process alone needs none.
        watch: called while the others are waited for to meet again; raises where one cannot come any more.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        store: Store | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self._place = None if store is None else Place(store, rank, size, watch)
        self._within = False
        self._aborted = False

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
                if isinstance(said, End):
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

    def meet(self) -> None:
        """Meet the others, in a place that earlier meetings have not used.

        Raises:
            ProcessLost: the others do not come; after the first meeting they are not waited for long.
        """
        assert self._place is not None
        self._within = False
        self._place.meet()

    def may_meet_again(self, device: torch.device) -> bool:
        """Whether a failure that others are told of by a closed connection may be tried again; NCCL tells nobody."""
        return self.size == 1 or device.type == "cpu"

    def meet_again(self) -> None:
        """Part, and meet anew; for all of them, each of which has failed somewhere in the same attempt.

        The error must not be held any more: what its frames hold would keep the connections open.
        """
        if self.size > 1:
            self.part()
            self.meet()

    @staticmethod
    def part() -> None:
        """Close the connections to the others."""
        with suppress(Exception):  # of one that others have left
            dist.destroy_process_group()

    def abort(self) -> None:
        """Give up what is waited for in another thread, which fails, where the backend can do that."""
        self._aborted = True
        if (world := dist.group.WORLD) is not None:
            world.abort()

    def require_whole(self) -> None:
        """To be called between what others gave and its use: sums that NCCL was told to give up are numbers too.

        Raises:
            ProcessLost: they were given up.
        """
        if self._aborted:
            raise ProcessLost(
                "another process of the training has ended; start it again, it goes on from its checkpoint"
            )

    @contextmanager
    def reasons_shared(self) -> Iterator[None]:
        """Around what all do: who fails leaves the reason to the others, who fail with it instead of `ProcessLost`.

        Raises:
            OutOfMemory: another process found no memory.
            LabelError: what else another one has ended with.
        """
        try:
            yield
        except ProcessLost as lost:
            if self._place is None or (end := self._place.reason()) is None:
                raise
            raise end.raised() from lost
        except BaseException as error:
            if self._place is not None:
                self._place.leave(error)
            raise

    def tell_end(self, error: BaseException) -> None:
        """Let the others end too where they hear it; in the middle of a step the end of this process does that."""
        if self.size == 1 or self._within:
            return
        with suppress(Exception):
            self.exchange(End.by(error, self.rank))


ALONE = Group()


@contextmanager
def joined(
    rank: int, size: int, local_rank: int = 0, store: Store | None = None, watch: Callable[[], None] = lambda: None
) -> Iterator[Group]:
    """Meet the other processes, and part from them at the end.

    Args:
        rank: of this process.
        size: processes in all.
        local_rank: of this process on its machine.
        store: where they meet; None = where the environment says, as torchrun sets it.
        watch: called while the others are waited for to meet again; raises where one cannot come any more.

    Raises:
        ProcessLost: the others do not come, or one ends before its time.
    """
    group = Group(rank, size, local_rank, store or store_of_environment(rank, size), watch)
    group.meet()
    try:
        with group.reasons_shared():
            yield group
    except BaseException as error:
        group.tell_end(error)
        if not nccl_waits():
            group.part()
        raise
    group.part()


def nccl_waits() -> bool:
    """Whether parting would wait for the others: NCCL does, for ever where one has failed within a step.

    The end of the process parts them then, by whoever started it: it kills the helpers, as torchrun does.
    """
    return dist.is_initialized() and "nccl" in str(dist.get_backend())


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
